"""DROP, RENAME, SET SCHEMA and OWNER TO: only the catalog changes, but who reads the old name waits or fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dbsec.migrations import tree
from dbsec.migrations.effects import dependents
from dbsec.migrations.effects.draft import Draft
from dbsec.migrations.effects.indexes import drop_index
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name
from dbsec.migrations.operations import (
    ChangeOwner,
    ConstraintKind,
    Drop,
    DropColumn,
    Operation,
    Rename,
    SetSchema,
)
from dbsec.migrations.schema import places
from dbsec.migrations.schema.model import Table
from dbsec.migrations.statement import Node

_RELATIONS = ("table", "view", "materialized view", "foreign table")
_ON_TABLE = ("trigger", "policy", "rule")
_ALONE = ("database", "tablespace")  # refused in a transaction
_AX = LockMode.ACCESS_EXCLUSIVE


def drop_column(operation: DropColumn, draft: Draft) -> None:
    """Foretell DROP COLUMN: indexes and constraints on it go silently, views and foreign keys of others refuse."""
    table = draft.target(operation)
    if table is None:
        return
    column = operation.column
    draft.lock(_AX, *draft.family(table))  # with ONLY too: the children's column becomes their own
    if column not in table.columns:
        if draft.complete(table) and not operation.if_column_exists:
            draft.fails(f'column "{column}" of relation "{table.name.name}" does not exist')
        return
    if table.partition_of:
        draft.fails(f'cannot drop inherited column "{column}"')
    if table.partition_by and column in table.partition_by[1]:
        draft.fails(f'cannot drop column "{column}" because it is part of the partition key')
    for key in table.of_kind(ConstraintKind.FOREIGN_KEY):
        if column in key.columns:
            draft.lock(_AX, *draft.family(draft.table(key.references or table.name)))
    needing = [view.name for view in dependents.views_of_column(table, column, draft.schema)]
    above = [name for view in needing for name in (view, *dependents.views_above(view, draft.schema))]
    others = [other.name for other, _ in dependents.keys_on(table, (column,), draft.schema) if other is not table]
    if not operation.cascade and (above or others or any(dependents.generated_from(table, column))):
        draft.fails(f"cannot drop column {column} of table {table.name.name} because other objects depend on it")
    draft.lock(_AX, *above, *others)


def drop(operation: Drop, draft: Draft) -> None:
    """Foretell DROP."""
    if operation.kind == "index":
        drop_index(operation, draft)
    elif operation.kind in _RELATIONS:
        _drop_relation(operation, draft)
    elif operation.kind in _ON_TABLE and operation.table is not None:
        _drop_on_table(operation, operation.table, draft)
    elif operation.kind == "schema":
        _drop_schema(operation, draft)
    elif operation.kind in ("type", "domain"):
        _drop_type(operation, draft)
    elif operation.kind == "sequence":
        _drop_sequence(operation, draft)
    elif operation.kind == "statistics":
        _drop_statistics(operation, draft)
    elif operation.kind in _ALONE:
        draft.refused_in_transaction(f"DROP {operation.kind.upper()}")


def _drop_relation(operation: Drop, draft: Draft) -> None:
    if operation.if_exists and draft.schema.known and not draft.exists(operation.name):
        return
    table = draft.table(operation.name)
    gone = draft.family(table)
    if table.inherits or any(child.inherits for child in gone if child is not table):
        _inherited(operation, table, gone, draft)
    _gone(gone, draft, cascade=operation.cascade, what=f"{operation.kind} {table.name.name}")


def _inherited(operation: Drop, table: Table, gone: list[Table], draft: Draft) -> None:
    if not operation.cascade and any(child.inherits for child in gone if child is not table):
        draft.fails(f"cannot drop table {table.name.name} because other objects depend on it")


def _gone(gone: list[Table], draft: Draft, *, cascade: bool, what: str) -> None:
    """Lock tables that go away and all that depends on them; refuse where that is not dropped too."""
    names = {table.name for table in gone}
    draft.lock(_AX, *gone)
    depending: set[Name] = set()
    for table in gone:
        if table.partition_of is not None and table.partition_of not in names:
            parent = draft.table(table.partition_of)
            siblings = places.heirs(draft.schema, parent)
            draft.lock(_AX, parent, *(one for one in siblings if one.bound and one.bound.strategy == "default"))
            above = {other.name for other, _ in draft.schema.referencing(parent.name)}
            depending |= above
            draft.lock(_AX, *(draft.family(parent) if above and cascade else ()))
        inherited = _keys_from_above(table, names, draft)
        for key in table.of_kind(ConstraintKind.FOREIGN_KEY):
            if key.references is not None and (key.columns, key.references) not in inherited:
                draft.lock(_AX, *draft.family(draft.table(key.references)))
        depending |= {other.name for other, _ in draft.schema.referencing(table.name)}
        depending |= set(dependents.views_above(table.name, draft.schema))
    if depending - names and not cascade:
        draft.fails(f"cannot drop {what} because other objects depend on it")
    draft.lock(_AX, *depending)


def _keys_from_above(table: Table, gone: set[Name], draft: Draft) -> set[tuple[tuple[str, ...], Name | None]]:
    """Foreign keys that a partition has from a parent that stays: the referenced table does not notice it go."""
    if table.partition_of is None or table.partition_of in gone:
        return set()
    parent = draft.table(table.partition_of)
    return {(key.columns, key.references) for key in parent.of_kind(ConstraintKind.FOREIGN_KEY)}


def _drop_on_table(operation: Drop, name: Name, draft: Draft) -> None:
    if operation.if_exists and draft.schema.known and not draft.exists(name):
        return
    table = draft.table(name)
    there = {"trigger": table.triggers, "policy": table.policies, "rule": table.rules}[operation.kind]
    if operation.if_exists and draft.complete(table) and operation.name.name not in there:
        draft.proves(f"there is no {operation.kind} '{operation.name.name}' on {table.name}")
        return
    draft.lock(_AX, *_bearing(table, operation.kind, draft))


def _bearing(table: Table, kind: str, draft: Draft) -> list[Table]:
    """A row trigger of a partitioned table stands on each partition too."""
    return draft.family(table, only=kind != "trigger" or table.partition_by is None)


def _drop_schema(operation: Drop, draft: Draft) -> None:
    inside = [table for table in draft.schema.tables.values() if table.name.schema == operation.name.name]
    views = [view.name for view in draft.schema.views.values() if view.name.schema == operation.name.name]
    if (inside or views) and not operation.cascade:
        draft.fails(f"cannot drop schema {operation.name.name} because other objects depend on it")
    draft.lock(_AX, *views, *(name for view in views for name in dependents.views_above(view, draft.schema)))
    _gone(inside, draft, cascade=operation.cascade, what=f"schema {operation.name.name}")


def _drop_type(operation: Drop, draft: Draft) -> None:
    users = list(dependents.tables_with_type(operation.name, draft.schema))
    if users and not operation.cascade:
        draft.fails(f"cannot drop type {operation.name.name} because other objects depend on it")
    draft.lock(_AX, *(table for table, _ in users))


def _drop_sequence(operation: Drop, draft: Draft) -> None:
    users = [
        table
        for table in draft.schema.tables.values()
        for column in table.columns.values()
        if column.default is not None and operation.name.name in _sequences(column.default)
    ]
    if users and not operation.cascade:
        draft.fails(f"cannot drop sequence {operation.name.name} because other objects depend on it")
    draft.lock(_AX, *users)


def _sequences(default: Node) -> set[str]:
    """Name the sequences of nextval() in a default."""
    texts = (tree.constant(call.get("args", [None])[0]) for kind, call in tree.walk(default) if kind == "FuncCall")
    return {text.rpartition(".")[2].strip('"') for text in texts if text}


def _drop_statistics(operation: Drop, draft: Draft) -> None:
    known = draft.schema.statistics
    places_ = [operation.name.schema] if operation.name.schema else draft.schema.search_path
    found = (known.get(Name(place, operation.name.name)) for place in places_)
    draft.lock(
        LockMode.SHARE_UPDATE_EXCLUSIVE,
        *(table for table in found if table is not None and table in draft.schema.tables),
    )


def rename(operation: Rename, draft: Draft) -> None:
    """Foretell RENAME; an index is renamed under SHARE UPDATE EXCLUSIVE, which is no table's matter."""
    name = operation.table if operation.kind in ("column", "constraint", *_ON_TABLE) else operation.name
    if name is None or operation.kind not in (*_RELATIONS, "column", "constraint", *_ON_TABLE):
        return
    if operation.if_exists and draft.schema.known and not draft.exists(name):
        return
    table = draft.table(name)
    if operation.kind == "column" and table.partition_of:
        draft.fails(f'cannot rename inherited column "{operation.name.name}"')
    draft.lock(_AX, table, *_renamed_below(operation, table, draft))


def _renamed_below(operation: Rename, table: Table, draft: Draft) -> Iterable[Table]:
    below = [child for child in draft.family(table) if child is not table]
    if operation.kind == "constraint":
        found = table.constraint(operation.name.name)
        inherited = found is not None and found.kind in (ConstraintKind.CHECK, ConstraintKind.NOT_NULL)
        return below if inherited else []
    if operation.kind in _ON_TABLE:
        return _bearing(table, operation.kind, draft)
    return below if operation.kind == "column" else []


def set_schema(operation: SetSchema, draft: Draft) -> None:
    """Foretell SET SCHEMA."""
    if operation.kind in _RELATIONS:
        draft.lock(_AX, draft.table(operation.name))


def change_owner(operation: ChangeOwner, draft: Draft) -> None:
    """Foretell OWNER TO, even to the same owner."""
    if operation.kind in _RELATIONS:
        draft.lock(_AX, draft.table(operation.name))


FORETOLD: dict[type[Operation], Callable[[Any, Draft], None]] = {
    DropColumn: drop_column,
    Drop: drop,
    Rename: rename,
    SetSchema: set_schema,
    ChangeOwner: change_owner,
}
