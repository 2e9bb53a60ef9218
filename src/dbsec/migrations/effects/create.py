"""CREATE of relations and what stands on them: what they lock of that which is there already."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dbsec.migrations.effects.draft import Draft
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.effects.partitions import create_partition
from dbsec.migrations.names import Name
from dbsec.migrations.operations import (
    Constraint,
    ConstraintKind,
    CreateOther,
    CreatePolicy,
    CreateRule,
    CreateTable,
    CreateTrigger,
    CreateView,
    Operation,
)
from dbsec.migrations.schema import naming, places
from dbsec.migrations.statement import Node

_ALONE = ("database", "tablespace", "subscription")  # refused in a transaction


def create_table(operation: CreateTable, draft: Draft) -> None:
    """Foretell CREATE TABLE: the new table is nobody's yet, but parents and referenced tables are."""
    name = places.of_new_table(draft.schema, operation.table, temporary=operation.persistence == "temporary")
    if name in draft.schema.tables:
        if operation.if_not_exists:
            draft.proves(f"{name} is there already")
        else:
            draft.fails(f'relation "{name.name}" already exists')
        return
    create_partition(operation, draft)
    for parent in operation.inherits:
        draft.lock(LockMode.SHARE_UPDATE_EXCLUSIVE, draft.table(parent))
    beside = (constraint for column in operation.columns for constraint in column.constraints)
    for referenced in _referenced((*beside, *operation.constraints)):
        if draft.schema.qualified(referenced) != name:
            draft.lock(LockMode.SHARE_ROW_EXCLUSIVE, *draft.family(draft.table(referenced)))


def _referenced(constraints: Iterable[Constraint]) -> list[Name]:
    keys = (one for one in constraints if one.kind is ConstraintKind.FOREIGN_KEY)
    return [key.references for key in keys if key.references is not None]


def create_view(operation: CreateView, draft: Draft) -> None:
    """Foretell CREATE VIEW; a view that is replaced keeps its columns, in name and order."""
    there = draft.schema.view(operation.view)
    if there is None:
        if operation.replace and not draft.schema.known:
            draft.lock(LockMode.ACCESS_EXCLUSIVE, draft.schema.qualified(operation.view))
        return
    if not operation.replace:
        draft.fails(f'relation "{there.name.name}" already exists')
        return
    draft.lock(LockMode.ACCESS_EXCLUSIVE, there.name)
    columns = _columns(operation)
    if columns is None or not there.columns:
        return
    if len(columns) < len(there.columns):
        draft.fails("cannot drop columns from view")
    for old, new in zip(there.columns, columns, strict=False):
        if old != new:
            draft.fails(f'cannot change name of view column "{old}" to "{new}"')


def _columns(operation: CreateView) -> tuple[str, ...] | None:
    """Name the columns of a view's query; None where a star or an unnamed column stands among them."""
    query: Node = (operation.query or {}).get("SelectStmt", {})
    while "larg" in query:
        query = query["larg"]["SelectStmt"] if "SelectStmt" in query["larg"] else query["larg"]
    found: list[str] = []
    for item in query.get("targetList", ()):
        target = item["ResTarget"]
        fields = target.get("val", {}).get("ColumnRef", {}).get("fields", ())
        name = target.get("name") or naming.figured(target.get("val", {}))
        if name is None or any("A_Star" in field for field in fields):
            return None
        found.append(name)
    return (*operation.columns, *found[len(operation.columns) :]) if found else None


def create_trigger(operation: CreateTrigger, draft: Draft) -> None:
    """Foretell CREATE TRIGGER: a row trigger of a partitioned table stands on each partition too."""
    table = draft.table(operation.table)
    draft.lock(LockMode.SHARE_ROW_EXCLUSIVE, *draft.family(table, only=not (table.partition_by and operation.row)))


def on_table(operation: CreateRule | CreatePolicy, draft: Draft) -> None:
    """Foretell CREATE RULE, CREATE POLICY and ALTER POLICY."""
    draft.lock(LockMode.ACCESS_EXCLUSIVE, draft.table(operation.table))


def create_other(operation: CreateOther, draft: Draft) -> None:
    """Foretell statistics and publications, which lock their tables, and what must not stand in a transaction."""
    if operation.kind in _ALONE:
        draft.refused_in_transaction(f"CREATE {operation.kind.upper()}")
    draft.lock(LockMode.SHARE_UPDATE_EXCLUSIVE, *(draft.table(name) for name in operation.tables))


FORETOLD: dict[type[Operation], Callable[[Any, Draft], None]] = {
    CreateTable: create_table,
    CreateView: create_view,
    CreateTrigger: create_trigger,
    CreateRule: on_table,
    CreatePolicy: on_table,
    CreateOther: create_other,
}
