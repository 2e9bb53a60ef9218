"""VACUUM, CLUSTER, REFRESH, LOCK TABLE, TRUNCATE, COMMENT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dbsec.migrations.effects.draft import Draft
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.names import Name
from dbsec.migrations.operations import (
    Cluster,
    Comment,
    LockTable,
    Operation,
    Other,
    Refresh,
    Truncate,
    Vacuum,
)
from dbsec.migrations.schema.model import Table

_AX = LockMode.ACCESS_EXCLUSIVE
_SUX = LockMode.SHARE_UPDATE_EXCLUSIVE
_VACUUMS_CHILDREN = 18  # VACUUM and ANALYZE go down to inheritance children too
_COMMENTED = ("table", "view", "materialized view", "foreign table", "column")
_ALONE = {"AlterSystemStmt": "ALTER SYSTEM"}


def vacuum(operation: Vacuum, draft: Draft) -> None:
    """Foretell VACUUM and ANALYZE."""
    if not operation.analyze_only and draft.refused_in_transaction("VACUUM"):
        return
    tables = [draft.table(name) for name in operation.tables] or list(draft.schema.tables.values())
    if not operation.tables and not draft.schema.known:
        draft.doubts()
    for table in tables:
        children = table.partition_by is not None or draft.major >= _VACUUMS_CHILDREN
        members = draft.family(table, only=not children)
        if operation.full:
            leaves = [member for member in members if member.partition_by is None]
            draft.lock(_AX, *leaves)
            draft.does(Work.REWRITE, leaves, "VACUUM FULL writes the table and its indexes anew")
        else:
            draft.lock(_SUX, *(one for one in members if operation.analyze_only or one.partition_by is None))


def cluster(operation: Cluster, draft: Draft) -> None:
    """Foretell CLUSTER; without a name it takes every table that was clustered before."""
    if operation.table is None:
        draft.refused_in_transaction("CLUSTER")
        draft.doubts()
        return
    table = draft.table(operation.table)
    if table.partition_by and draft.refused_in_transaction("CLUSTER"):
        return
    draft.lock(_AX, *draft.leaves(table))
    draft.does(Work.REWRITE, [table], "CLUSTER writes the table and its indexes anew")


def refresh(operation: Refresh, draft: Draft) -> None:
    """Foretell REFRESH MATERIALIZED VIEW."""
    view = draft.table(operation.view)
    if not operation.concurrently:
        draft.lock(_AX, view)
        draft.does(Work.REWRITE, [view], "the view is written anew while nobody reads it")
        return
    draft.lock(LockMode.EXCLUSIVE, view)
    whole = [i for i in view.indexes.values() if i.unique and i.valid and not i.expressions and i.predicate is None]
    if not whole and draft.complete(view):
        draft.fails(f'cannot refresh materialized view "{view.name}" concurrently')
    draft.does(Work.SCAN, [view], "the new rows are compared with the old ones; readers go on")


def lock_table(operation: LockTable, draft: Draft) -> None:
    """Foretell LOCK TABLE: of a view its tables are locked too."""
    if not draft.in_transaction:
        draft.fails("LOCK TABLE can only be used in transaction blocks")
        return
    mode = LockMode(operation.mode)
    if mode is LockMode.ACCESS_SHARE:
        return
    for name in operation.tables:
        for below in _below(name, draft):
            draft.lock(mode, *draft.family(below, only=name in operation.only))


def _below(name: Name, draft: Draft) -> Iterator[Table]:
    table = draft.table(name)
    yield table
    view = draft.schema.views.get(table.name)
    for read in view.reads if view is not None and not view.materialized else ():
        yield from _below(read, draft)


def truncate(operation: Truncate, draft: Draft) -> None:
    """Foretell TRUNCATE: no row is touched, so that it takes no longer for more of them."""
    named = [(draft.table(name), name in operation.only) for name in operation.tables]
    if any(only and table.partition_by for table, only in named):
        draft.fails("cannot truncate only a partitioned table")
    found = {member.name: member for table, only in named for member in draft.family(table, only=only)}
    todo = list(found.values())
    while todo:
        table = todo.pop()
        for holder, _ in draft.schema.referencing(table.name):
            if holder.name in found:
                continue
            if not operation.cascade:
                draft.fails("cannot truncate a table referenced in a foreign key constraint")
                continue
            for member in draft.family(holder):
                found[member.name] = member
                todo.append(member)
    draft.lock(_AX, *found.values())


def comment(operation: Comment, draft: Draft) -> None:
    """Foretell COMMENT: on a table, a view or a column it stands against other DDL only."""
    if operation.kind in _COMMENTED:
        draft.lock(_SUX, draft.table(operation.name))


def other(operation: Other, draft: Draft) -> None:
    """Foretell what has no record: only what must not stand in a transaction."""
    if operation.kind in _ALONE:
        draft.refused_in_transaction(_ALONE[operation.kind])


FORETOLD: dict[type[Operation], Callable[[Any, Draft], None]] = {
    Vacuum: vacuum,
    Cluster: cluster,
    Refresh: refresh,
    LockTable: lock_table,
    Truncate: truncate,
    Comment: comment,
    Other: other,
}
