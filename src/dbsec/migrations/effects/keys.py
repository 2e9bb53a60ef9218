"""UNIQUE, PRIMARY KEY and EXCLUDE: an index is built under the lock, or one that stands there is taken."""

from __future__ import annotations

from dbsec.migrations.effects.draft import Draft
from dbsec.migrations.effects.implication import proven_not_null
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import Constraint, ConstraintKind
from dbsec.migrations.schema.model import Index, Table

_LOCKS_CHILDREN = 18  # ADD UNIQUE locks inheritance children too
_EXCLUDES_PARTITIONED = 17


def add_key(table: Table, key: Constraint, draft: Draft, *, only: bool = False) -> None:
    """Foretell ADD UNIQUE, PRIMARY KEY or EXCLUDE."""
    draft.lock(LockMode.ACCESS_EXCLUSIVE, table)
    primary = key.kind is ConstraintKind.PRIMARY_KEY
    members = draft.family(table, only=only)
    below = [member for member in members if member is not table]
    settled = not primary or all(name in table.columns and table.columns[name].not_null for name in key.columns)
    if table.partition_by and settled and draft.major < _LOCKS_CHILDREN:
        draft.lock(LockMode.SHARE, *below)
    elif table.partition_by or primary or draft.major >= _LOCKS_CHILDREN:
        draft.lock(LockMode.ACCESS_EXCLUSIVE, *below)
    if primary and any(table.of_kind(ConstraintKind.PRIMARY_KEY)):
        draft.fails(f'multiple primary keys for table "{table.name.name}" are not allowed')
    if not key.valid:
        draft.fails(f"{key.kind.upper()} constraints cannot be marked NOT VALID")
    columns = _columns_of_index(table, key, draft) if key.using_index else key.columns
    _partitioned(table, key, draft)
    for column in columns if primary else ():
        see_not_null(members, column, draft)
    if not key.using_index and not (only and table.partition_by):  # ONLY makes the frame of a partitioned index
        draft.does(Work.BUILD, [table], f"{key.kind.upper()} builds its index under the lock")


def _columns_of_index(table: Table, key: Constraint, draft: Draft) -> tuple[str, ...]:
    index = table.indexes.get(key.using_index or "")
    if index is None:
        draft.doubts()
        if key.kind is ConstraintKind.PRIMARY_KEY:
            draft.does(Work.SCAN, [table], f"the columns of '{key.using_index}' may hold NULL")
        return ()
    draft.proves(f"the index '{index.name}' is there already")
    _usable(index, draft)
    return index.columns


def _usable(index: Index, draft: Draft) -> None:
    if not index.valid:
        draft.fails(f'index "{index.name}" is not valid')
    if not index.unique:
        draft.fails(f'"{index.name}" is not a unique index')
    if index.expressions:
        draft.fails(f'index "{index.name}" contains expressions')
    if index.predicate is not None:
        draft.fails(f'"{index.name}" is a partial index')


def _partitioned(table: Table, key: Constraint, draft: Draft) -> None:
    if not table.partition_by:
        return
    if key.using_index:
        draft.fails("ALTER TABLE / ADD CONSTRAINT USING INDEX is not supported on partitioned tables")
    elif key.kind is ConstraintKind.EXCLUDE and draft.major < _EXCLUDES_PARTITIONED:
        draft.fails("exclusion constraints are not supported on partitioned tables")
    elif not {name for name in table.partition_by[1] if name} <= set(key.columns):
        draft.fails("unique constraint on partitioned table must include all partitioning columns")


def see_not_null(tables: list[Table], column: str, draft: Draft) -> None:
    """Read each table whose column may hold NULL as far as PostgreSQL can see from its constraints."""
    for table in tables:
        if table.partition_by and draft.leaves(table) != [table]:
            continue  # its partitions stand beside it
        found = table.columns.get(column)
        if found is not None and found.not_null:
            draft.proves(f"'{column}' is NOT NULL already")
        elif found is not None and proven_not_null(table, column, draft.schema):
            draft.proves(f"a valid CHECK proves that '{column}' holds no NULL")
        else:
            if not draft.complete(table):
                draft.doubts()
            draft.does(Work.SCAN, [table], f"each row is read to see that '{column}' is not NULL")
