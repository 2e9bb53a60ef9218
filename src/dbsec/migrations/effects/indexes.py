"""CREATE, DROP and REINDEX of indexes: without CONCURRENTLY the table takes no writes while one is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbsec.migrations.effects.draft import Draft
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Constraint, ConstraintKind, CreateIndex, Drop, Operation, Reindex
from dbsec.migrations.schema.model import Index, Table

_KEYS = (ConstraintKind.UNIQUE, ConstraintKind.PRIMARY_KEY)
_TELLS_KEYS_APART = 16  # before, UNIQUE of a partition served as PRIMARY KEY of the parent


def create_index(operation: CreateIndex, draft: Draft) -> None:
    """Foretell CREATE INDEX."""
    table = draft.table(operation.table)
    if operation.concurrently:
        if table.partition_by:
            draft.fails(f'cannot create index on partitioned table "{table.name.name}" concurrently')
        if draft.refused_in_transaction("CREATE INDEX CONCURRENTLY") or table.partition_by:
            return
    mode = LockMode.SHARE_UPDATE_EXCLUSIVE if operation.concurrently else LockMode.SHARE
    draft.lock(mode, table)
    if operation.name and draft.schema.index(Name(table.name.schema, operation.name)) is not None:
        if operation.if_not_exists:
            draft.proves(f"an index '{operation.name}' is there already")
        else:
            draft.fails(f'relation "{operation.name}" already exists')
        return
    alone = operation.only or not table.partition_by
    members = [table] if alone else draft.family(table)
    draft.lock(mode, *members)
    if operation.only and table.partition_by:
        return
    keys = {name for name in (table.partition_by or ("", ()))[1] if name}
    if operation.unique and not keys <= set(operation.columns):
        draft.fails("unique constraint on partitioned table must include all partitioning columns")
    wanted = _as_index(operation, table)
    for leaf in (member for member in members if member.partition_by is None):
        if not alone and any(own.parent is None and matches(wanted, own, draft) for own in leaf.indexes.values()):
            draft.proves(f"{leaf.name} has such an index already")
        else:
            draft.does(Work.BUILD, [leaf], "each row gets an entry in the new index")
    if members == [table] and table.partition_by is not None and not draft.complete(table):
        draft.does(Work.BUILD, [table], "each row gets an entry in the new index")


def _as_index(operation: CreateIndex, table: Table) -> Index:
    return Index(
        operation.name or "",
        table.name,
        operation.columns,
        operation.include,
        operation.expressions,
        operation.predicate,
        operation.unique,
        operation.method,
    )


def matches(
    wanted: Index, own: Index, draft: Draft, keys: tuple[Constraint | None, Constraint | None] | None = None
) -> bool:
    """Tell whether a partition's index serves as its part of the parent's; ``keys``: the constraints of both."""
    if not own.valid or (own.method, own.unique, own.include) != (wanted.method, wanted.unique, wanted.include):
        return False
    if own.columns != wanted.columns or _computed(own) != _computed(wanted):
        return False
    if wanted.constraint is None or keys is None:
        return True
    parents, childs = keys
    if parents is None or childs is None:
        return False
    return childs.kind is parents.kind or (draft.major < _TELLS_KEYS_APART and childs.kind in _KEYS)


def _computed(index: Index) -> Any:
    """Expressions and predicate without the places in the text where they stood."""
    return _without_location([*index.expressions, index.predicate])


def _without_location(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_location(value) for key, value in node.items() if not key.endswith("location")}
    return [_without_location(one) for one in node] if isinstance(node, list) else node


def drop_index(operation: Drop, draft: Draft) -> None:
    """Foretell DROP INDEX."""
    index = draft.schema.index(operation.name)
    if operation.concurrently and draft.refused_in_transaction("DROP INDEX CONCURRENTLY"):
        return
    mode = LockMode.SHARE_UPDATE_EXCLUSIVE if operation.concurrently else LockMode.ACCESS_EXCLUSIVE
    if index is None:
        if not draft.schema.known:
            draft.doubts()
            draft.lock(mode, draft.schema.qualified(operation.name))
        return
    table = draft.table(index.table)
    if index.parent:
        draft.fails(f"cannot drop index {index.name} because index {index.parent} requires it")
    if index.constraint and not operation.cascade:
        draft.fails(f"cannot drop index {index.name} because constraint {index.constraint} requires it")
    if table.partition_by and operation.concurrently:
        draft.fails(f'cannot drop partitioned index "{index.name}" concurrently')
    draft.lock(mode, *(draft.family(table) if table.partition_by else [table]))


def reindex(operation: Reindex, draft: Draft) -> None:
    """Foretell REINDEX."""
    several = operation.kind not in ("index", "table")
    what = f"REINDEX {operation.kind.upper()}" if several else "REINDEX CONCURRENTLY"
    if (several or operation.concurrently) and draft.refused_in_transaction(what):
        return
    for table in _reindexed(operation, draft):
        if table.partition_by and draft.refused_in_transaction(f"REINDEX {operation.kind.upper()}"):
            return
        leaves = draft.leaves(table)
        if table.partition_by:
            draft.lock(LockMode.SHARE, table)
        draft.lock(LockMode.SHARE_UPDATE_EXCLUSIVE if operation.concurrently else LockMode.SHARE, *leaves)
        has_index = [leaf for leaf in leaves if leaf.indexes or not draft.complete(leaf)]
        draft.does(Work.BUILD, has_index, "each row gets an entry in the new index")


def _reindexed(operation: Reindex, draft: Draft) -> list[Table]:
    if operation.name is None or operation.kind in ("database", "system"):
        return [
            table for table in draft.schema.tables.values() if not table.partition_by and table.kind != "foreign table"
        ]
    if operation.kind == "schema":
        return [t for t in draft.schema.tables.values() if t.name.schema == operation.name.name and not t.partition_by]
    if operation.kind == "table":
        return [draft.table(operation.name)]
    index = draft.schema.index(operation.name)
    if index is None:
        draft.doubts()
    return [draft.table(index.table if index else operation.name)]


FORETOLD: dict[type[Operation], Callable[[Any, Draft], None]] = {CreateIndex: create_index, Reindex: reindex}
