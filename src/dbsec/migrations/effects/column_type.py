"""ALTER TABLE … ALTER COLUMN … TYPE: rewrite or not, and what hangs on the column: indexes, checks, foreign keys."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

from dbsec.migrations import tree
from dbsec.migrations.effects import coercion, dependents
from dbsec.migrations.effects.coercion import Cast
from dbsec.migrations.effects.draft import Draft
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.interpret import columns
from dbsec.migrations.operations import AlterColumnType, Column, Constraint, ConstraintKind, Operation, Type
from dbsec.migrations.schema.model import Index, Table
from dbsec.migrations.statement import Node


def alter_column_type(operation: AlterColumnType, draft: Draft) -> None:
    """Foretell ALTER COLUMN … TYPE."""
    table = draft.target(operation)
    if table is None:
        return
    family = draft.family(table, only=operation.only)
    draft.lock(LockMode.ACCESS_EXCLUSIVE, *family)
    column = table.columns.get(operation.column)
    if column is None or not column.type.name:
        if column is None and draft.complete(table):
            draft.fails(f'column "{operation.column}" of relation "{table.name.name}" does not exist')
        draft.doubts()
        draft.does(Work.REWRITE, family, f"the type that '{operation.column}' has now is not known")
        return
    _refused(operation, table, column, draft)
    found = _cast(operation, column, draft)
    if found.unsure:
        draft.doubts()
    changed = found.rewrites or _class_changes(operation, column, draft)
    if found.rewrites:
        draft.does(Work.REWRITE, family, found.why)
    else:
        draft.proves(found.why)
        for member in family:
            _without_rewrite(operation, member, column, draft)
    for member in family:
        _foreign_keys(operation, member, draft, changed=changed)


def _cast(operation: AlterColumnType, column: Column, draft: Draft) -> Cast:
    if column.generated == "virtual":
        return Cast(False, "a virtual column stands in no row")
    start = _through(operation.using, column, draft) if operation.using is not None else Cast(False, "")
    if start is None:
        return Cast(True, "USING computes a new value for each row")
    if start.rewrites:
        return start
    last = _shown(operation.using, column) if operation.using is not None else column.type
    return _judge(last, operation.type, draft)


def _judge(old: Type, new: Type, draft: Draft) -> Cast:
    return coercion.cast(old, new, draft.schema, draft.major, draft.session.setting("timezone"))


def _through(using: Node, column: Column, draft: Draft) -> Cast | None:
    """Follow USING from the column outwards, cast by cast; None where anything else is computed."""
    match using:
        case {"ColumnRef": {"fields": fields}}:
            return Cast(False, "") if tree.texts(fields)[-1] == column.name else None
        case {"CollateClause": {"arg": inner}}:
            return _through(inner, column, draft)
        case {"TypeCast": {"arg": inner, "typeName": wanted}}:
            before = _through(inner, column, draft)
            if before is None or before.rewrites:
                return before
            return _judge(_shown(inner, column), columns.type_of(wanted), draft)
    return None


def _shown(using: Node, column: Column) -> Type:
    """Name the type that a chain of casts has come to."""
    match using:
        case {"CollateClause": {"arg": inner}}:
            return _shown(inner, column)
        case {"TypeCast": {"typeName": wanted}}:
            return columns.type_of(wanted)
    return column.type


def _refused(operation: AlterColumnType, table: Table, column: Column, draft: Draft) -> None:
    """What depends on the column and cannot follow it: PostgreSQL refuses, whatever the types are."""
    if found := dependents.refusing_type_change(table, column.name, draft.schema):
        draft.fails(found)
    for user, name in dependents.tables_with_type(table.name, draft.schema):
        draft.fails(
            f'cannot alter table "{table.name.name}" because column "{user.name.name}.{name}" uses its row type'
        )
    if table.partition_by and column.name in table.partition_by[1]:
        draft.fails(f'cannot alter column "{column.name}" because it is part of the partition key')
    if table.partition_of or any(column.name in draft.table(parent).columns for parent in table.inherits):
        draft.fails(f'cannot alter inherited column "{column.name}"')
    if operation.only and len(draft.family(table)) > 1:
        draft.fails(f'type of inherited column "{column.name}" must be changed in child tables too')
    if not coercion.castable(column.type, operation.type, draft.schema, draft.major):
        if operation.using is None:
            draft.fails(f'column "{column.name}" cannot be cast automatically to type {operation.type}')
        elif column.default is not None and not tree.is_null(column.default):
            draft.fails(f'default for column "{column.name}" cannot be cast automatically to type {operation.type}')
    if operation.using is None and _bits_differ(column.type, operation.type) and draft.filled(table):
        draft.fails(f"bit string length does not match type {operation.type}")


def _bits_differ(old: Type, new: Type) -> bool:
    """Only an explicit cast cuts or pads a bit(n)."""
    return (old.name, new.name) == ("bit", "bit") and not new.array and old.modifiers != new.modifiers


def _class_changes(operation: AlterColumnType, column: Column, draft: Draft) -> bool:
    before, after = (coercion.index_class(one, draft.schema, draft.major) for one in (column.type, operation.type))
    return before != after


def _collation_changes(operation: AlterColumnType, column: Column, draft: Draft) -> bool:
    old, new = (None if one == "default" else one for one in (column.collation, operation.collation))
    return old != new and coercion.collatable(operation.type, draft.schema)


def _without_rewrite(operation: AlterColumnType, table: Table, column: Column, draft: Draft) -> None:
    collates = _collation_changes(operation, column, draft)
    changes = _class_changes(operation, column, draft)
    for index in table.indexes.values():
        if why := _rebuilt(index, column, collates=collates, changes=changes):
            draft.does(Work.BUILD, [table], f"index '{index.name}' is built again: {why}")
    for check in table.of_kind(ConstraintKind.CHECK):
        if check.valid and column.name in tree.columns_in(check.expression):
            draft.does(Work.SCAN, [table], f"CHECK '{check.name}' is tried again on each row")


def _rebuilt(index: Index, of: Column, *, collates: bool, changes: bool) -> str:
    """Say why an index does not stay as it is; empty where it stays, or is on other columns."""
    column = of.name
    computed = [column in tree.columns_in(one) for one in (*index.expressions, index.predicate) if one is not None]
    if column not in (*index.columns, *index.include) and not any(computed):
        return ""
    if index.parent is not None:
        return "it hangs on an index of the partitioned table, and PostgreSQL never reuses such a one"
    if index.expressions or index.predicate is not None:
        return "PostgreSQL never reuses one with an expression or a predicate"
    if column not in index.columns:
        return ""
    follows = [
        own in (None, of.collation or "default")  # PostgreSQL forgets that it was written
        for name, own in zip_longest(index.columns, index.collations[: len(index.columns)])
        if name == column
    ]
    return (
        "the collation changes"
        if collates and any(follows)
        else "the types are ordered by different operators"
        if changes
        else ""
    )


def _foreign_keys(operation: AlterColumnType, table: Table, draft: Draft, *, changed: bool) -> None:
    """Foreign keys on the column are made anew: both tables are locked, and rows looked up where operators change."""
    column = operation.column
    pairs = [(table, key) for key in table.of_kind(ConstraintKind.FOREIGN_KEY) if column in key.columns]
    for other, key in draft.schema.referencing(table.name):
        if column in key.referenced_columns:
            pairs.append((other, key))
    for holder, key in pairs:
        referenced = draft.table(key.references or table.name)
        mode = LockMode.ACCESS_EXCLUSIVE if key.enforced else LockMode.SHARE_ROW_EXCLUSIVE
        draft.lock(mode, *(one for one in (holder, referenced) if one is not table))
        _joined(operation, holder, referenced, key, draft)
        if changed and key.valid:
            draft.does(Work.FK_SCAN, [holder], f"foreign key '{key.name}' is checked again")


def _joined(operation: AlterColumnType, holder: Table, referenced: Table, key: Constraint, draft: Draft) -> None:
    """Refuse a type that the other side of a foreign key cannot be compared with."""
    for own, theirs in zip(key.columns, key.referenced_columns, strict=False):
        left, right = holder.columns.get(own), referenced.columns.get(theirs)
        if left is None or right is None or operation.column not in (own, theirs):
            continue
        here = draft.table(operation.table).name
        pair = (
            operation.type if holder.name == here and own == operation.column else left.type,
            operation.type if referenced.name == here and theirs == operation.column else right.type,
        )
        if not coercion.joins(*pair, draft.schema, draft.major):
            draft.fails(f'foreign key constraint "{key.name}" cannot be implemented: the types have no = operator')


FORETOLD: dict[type[Operation], Callable[[Any, Draft], None]] = {AlterColumnType: alter_column_type}
