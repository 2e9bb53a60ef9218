"""What PostgreSQL 14 to 18 does for one operation: its table locks, its work, the proofs that spare it some."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from dbsec.migrations.effects import (
    add_column,
    column_type,
    constraints,
    create,
    drops,
    indexes,
    maintenance,
    partitions,
    rows,
    table,
    user_types,
)
from dbsec.migrations.effects.draft import Draft
from dbsec.migrations.effects.model import NOTHING, Effect, LockMode, Work
from dbsec.migrations.effects.user_types import uses_new_value
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Operation
from dbsec.migrations.schema.model import Schema

if TYPE_CHECKING:  # session.py imports effects.model
    from dbsec.migrations.session import Session

_MODULES = (
    add_column,
    column_type,
    constraints,
    create,
    drops,
    indexes,
    maintenance,
    partitions,
    rows,
    table,
    user_types,
)
_FORETOLD: dict[type[Operation], Callable[[Any, Draft], None]] = {
    kind: function for module in _MODULES for kind, function in module.FORETOLD.items()
}


def foretell(operation: Operation, schema: Schema, session: Session, *, in_transaction: bool) -> Effect:
    """Tell what an operation does by itself; ``schema`` is the state before it, and is not changed.

    Where the schema does not tell, the worst is assumed and the effect is ``unsure``. Measured on 15, 17 and 18.
    """
    function = _FORETOLD.get(type(operation))
    if function is None:
        return NOTHING
    draft = Draft(schema, session, in_transaction)
    if session.added_values and in_transaction:
        uses_new_value(operation, draft)
    function(operation, draft)
    return draft.effect()


def together(effects: Iterable[Effect]) -> Effect:
    """Join the effects of one statement's operations: PostgreSQL takes the strongest lock first, for all of them.

    A rewrite reads each row and builds each index anyway, so that it takes scans and builds of its table in.
    """
    every = list(effects)
    locks: dict[Name, LockMode] = {}
    for name, mode in (lock for effect in every for lock in effect.locks):
        locks[name] = max(mode, locks.get(name, mode))
    work = list(dict.fromkeys(task for effect in every for task in effect.work))
    rewritten = {task.table for task in work if task.work is Work.REWRITE}
    return Effect(
        tuple(sorted(locks.items(), key=lambda lock: str(lock[0]))),
        tuple(t for t in work if t.table not in rewritten or t.work not in (Work.SCAN, Work.BUILD)),
        tuple(dict.fromkeys(proof for effect in every for proof in effect.proofs)),
        next((effect.fails for effect in every if effect.fails), ""),
        any(effect.unsure for effect in every),
    )
