"""INSERT, UPDATE, DELETE, MERGE, COPY: rows are locked one by one, and readers never wait for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbsec.migrations.effects.draft import Draft
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import ConstraintKind, Operation, Write

_ADDS = ("insert", "copy", "merge", "update")


def write(operation: Write, draft: Draft) -> None:
    """Foretell a statement that writes rows; a bounded one is no work that grows with the table."""
    table = draft.table(operation.table)
    down = operation.kind in ("update", "delete", "merge") or table.partition_by is not None
    draft.lock(LockMode.ROW_EXCLUSIVE, *draft.family(table, only=not down))
    if operation.kind in _ADDS:
        for key in table.of_kind(ConstraintKind.FOREIGN_KEY):
            if key.references is None or not key.enforced:
                continue
            if not operation.columns or set(key.columns) & set(operation.columns):
                draft.lock(LockMode.ROW_SHARE, draft.table(key.references))
    if not operation.bounded:
        draft.does(Work.WRITE, [table], _WHY.get(operation.kind, "the rows of a query are written"))


_WHY = {
    "update": "every row that the WHERE finds is written anew",
    "delete": "every row that the WHERE finds is marked and vacuumed later",
}

FORETOLD: dict[type[Operation], Callable[[Any, Draft], None]] = {Write: write}
