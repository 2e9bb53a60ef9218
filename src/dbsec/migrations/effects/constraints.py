"""ADD, VALIDATE, ALTER and DROP CONSTRAINT, and NOT NULL: who is locked, what is read, and which proof spares it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbsec.migrations.effects import coercion, dependents
from dbsec.migrations.effects.draft import Draft
from dbsec.migrations.effects.keys import add_key, see_not_null
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import (
    AddConstraint,
    AlterConstraint,
    Constraint,
    ConstraintKind,
    DropConstraint,
    DropNotNull,
    Operation,
    SetNotNull,
    ValidateConstraint,
)
from dbsec.migrations.schema.model import Table

_SINCE_18 = 18  # recursion takes other locks: children see foreign keys, a NOT NULL that is not there is not dropped


def add_constraint(operation: AddConstraint, draft: Draft) -> None:
    """Foretell ADD CONSTRAINT."""
    table = draft.target(operation)
    if table is None:
        return
    constraint = operation.constraint
    match constraint.kind:
        case ConstraintKind.CHECK:
            _add_check(operation, table, draft)
        case ConstraintKind.NOT_NULL:
            draft.lock(LockMode.ACCESS_EXCLUSIVE, *draft.family(table, only=operation.only))
            for column in constraint.columns:
                if constraint.valid:
                    only = operation.only or constraint.no_inherit
                    see_not_null(draft.family(table, only=only), column, draft)
        case ConstraintKind.FOREIGN_KEY:
            _add_foreign_key(table, constraint, draft)
        case _:
            add_key(table, constraint, draft, only=operation.only)


def _add_check(operation: AddConstraint, table: Table, draft: Draft) -> None:
    check = operation.constraint
    family = draft.family(table, only=operation.only)
    alone = check.no_inherit and not table.partition_by
    draft.lock(LockMode.ACCESS_EXCLUSIVE, *(family if draft.major >= _SINCE_18 or not alone else [table]))
    if check.no_inherit and table.partition_by:
        draft.fails(f'cannot add NO INHERIT constraint to partitioned table "{table.name.name}"')
    if operation.only and not alone and len(draft.family(table)) > 1:
        draft.fails("constraint must be added to child tables too")
    if check.valid and check.enforced:
        draft.does(Work.SCAN, [table] if alone else family, "each row is checked")


def set_not_null(operation: SetNotNull, draft: Draft) -> None:
    """Foretell SET NOT NULL."""
    table = draft.target(operation)
    if table is None:
        return
    only = operation.only and not table.partition_by
    column = table.columns.get(operation.column)
    idle = column is not None and column.not_null and (table.partition_by is not None or draft.major >= _SINCE_18)
    draft.lock(LockMode.ACCESS_EXCLUSIVE, *draft.family(table, only=only or idle))
    if operation.only and table.partition_by and len(draft.family(table)) > 1:
        draft.fails("constraint must be added to child tables too")
    _missing_column(table, operation.column, draft)
    see_not_null(draft.family(table, only=only or idle), operation.column, draft)


def drop_not_null(operation: DropNotNull, draft: Draft) -> None:
    """Foretell DROP NOT NULL."""
    table = draft.target(operation)
    if table is None:
        return
    found = table.columns.get(operation.column)
    idle = draft.major >= _SINCE_18 and found is not None and not found.not_null
    only = idle or (operation.only and draft.major < _SINCE_18)
    draft.lock(LockMode.ACCESS_EXCLUSIVE, *draft.family(table, only=only))
    _missing_column(table, operation.column, draft)
    parent = draft.table(table.partition_of).columns.get(operation.column) if table.partition_of else None
    if parent is not None and parent.not_null:
        draft.fails(f'column "{operation.column}" is marked NOT NULL in parent table')
    if any(operation.column in key.columns for key in table.of_kind(ConstraintKind.PRIMARY_KEY)):
        draft.fails(f'column "{operation.column}" is in a primary key')


def _missing_column(table: Table, column: str, draft: Draft) -> None:
    if column not in table.columns and draft.complete(table) and table.columns:
        draft.fails(f'column "{column}" of relation "{table.name.name}" does not exist')


def _add_foreign_key(table: Table, key: Constraint, draft: Draft) -> None:
    referenced = draft.table(key.references) if key.references is not None else table
    holders = draft.family(table, only=not table.partition_by and draft.major < _SINCE_18)
    targets = draft.family(referenced, only=not referenced.partition_by)
    draft.lock(LockMode.SHARE_ROW_EXCLUSIVE, *holders, *targets)
    if table.partition_by and not key.valid and key.enforced and draft.major < _SINCE_18:
        draft.fails(f'cannot add NOT VALID foreign key on partitioned table "{table.name.name}"')
    if draft.complete(referenced) and not dependents.has_key(referenced, key.referenced_columns):
        draft.fails(f'there is no unique constraint matching given keys for referenced table "{referenced.name.name}"')
    for own, theirs in zip(key.columns, key.referenced_columns or _primary(referenced), strict=False):
        pair = table.columns.get(own), referenced.columns.get(theirs)
        if pair[0] and pair[1] and not coercion.joins(pair[0].type, pair[1].type, draft.schema, draft.major):
            draft.fails(
                f'foreign key constraint "{key.name or own}" cannot be implemented: the types have no = operator'
            )
    if key.valid and key.enforced:
        draft.does(Work.FK_SCAN, [table], f"each row is looked up in {referenced.name}")


def _primary(table: Table) -> tuple[str, ...]:
    return next((key.columns for key in table.of_kind(ConstraintKind.PRIMARY_KEY)), ())


def validate_constraint(operation: ValidateConstraint, draft: Draft) -> None:
    """Foretell VALIDATE CONSTRAINT: the scan is the same, but readers and writers go on."""
    table = draft.target(operation)
    if table is None:
        return
    found = table.constraint(operation.name)
    if found is None:
        _missing(table, operation.name, draft)
        draft.lock(LockMode.SHARE_UPDATE_EXCLUSIVE, *draft.family(table))
        draft.does(Work.SCAN, draft.family(table), "each row is checked")
        return
    foreign = found.kind is ConstraintKind.FOREIGN_KEY
    holders = draft.family(table, only=operation.only or (foreign and not table.partition_by))
    if found.valid:
        draft.lock(LockMode.SHARE_UPDATE_EXCLUSIVE, table)
        draft.proves(f"the constraint '{operation.name}' is valid already")
    elif not found.enforced:
        draft.fails("cannot validate NOT ENFORCED constraint")
    elif foreign:
        draft.lock(LockMode.SHARE_UPDATE_EXCLUSIVE, *holders)
        draft.lock(LockMode.ROW_SHARE, draft.table(found.references or table.name))
        draft.does(Work.FK_SCAN, [table], "each row is looked up in the referenced table")
    else:
        draft.lock(LockMode.SHARE_UPDATE_EXCLUSIVE, *holders)
        draft.does(Work.SCAN, holders, "each row is checked")


def alter_constraint(operation: AlterConstraint, draft: Draft) -> None:
    """Foretell ALTER CONSTRAINT: DEFERRABLE is a matter of the catalog, ENFORCED (18) looks every row up."""
    table = draft.target(operation)
    if table is None:
        return
    draft.lock(LockMode.ACCESS_EXCLUSIVE, *draft.family(table, only=not table.partition_by))
    if operation.enforced is None:
        return
    found = table.constraint(operation.name)
    if found is None:
        _missing(table, operation.name, draft)
        if operation.enforced:
            draft.does(Work.FK_SCAN, [table], "each row is looked up in the referenced table")
        return
    if found.kind is not ConstraintKind.FOREIGN_KEY:
        draft.fails(f'cannot alter enforceability of constraint "{operation.name}"')
        return
    referenced = draft.family(draft.table(found.references or table.name))
    if operation.enforced:
        draft.lock(LockMode.SHARE_ROW_EXCLUSIVE, *referenced)
        if not found.enforced:
            draft.does(Work.FK_SCAN, [table], "each row is looked up in the referenced table")
    else:
        draft.lock(LockMode.ACCESS_EXCLUSIVE, *referenced)


def drop_constraint(operation: DropConstraint, draft: Draft) -> None:
    """Foretell DROP CONSTRAINT."""
    table = draft.target(operation)
    if table is None:
        return
    found = table.constraint(operation.name)
    inherited = found is None or found.kind in (ConstraintKind.CHECK, ConstraintKind.NOT_NULL)
    draft.lock(LockMode.ACCESS_EXCLUSIVE, *draft.family(table, only=not inherited and not table.partition_by))
    if found is None:
        if not operation.if_constraint_exists:
            _missing(table, operation.name, draft)
        return
    if found.kind is ConstraintKind.FOREIGN_KEY:
        draft.lock(LockMode.ACCESS_EXCLUSIVE, *draft.family(draft.table(found.references or table.name)))
    for other, _ in _keys_needing(table, found, draft):
        if other is not table and not operation.cascade:
            draft.fails(f"cannot drop constraint {operation.name} because other objects depend on it")
        draft.lock(LockMode.ACCESS_EXCLUSIVE, other)


def _missing(table: Table, name: str, draft: Draft) -> None:
    """A constraint that is not there; NOT NULL (18) is in no list, under the name that PostgreSQL gave it."""
    if draft.complete(table) and not name.endswith("_not_null"):
        draft.fails(f'constraint "{name}" of relation "{table.name.name}" does not exist')
    else:
        draft.doubts()


def _keys_needing(table: Table, key: Constraint, draft: Draft) -> list[tuple[Table, Constraint]]:
    if key.kind not in (ConstraintKind.PRIMARY_KEY, ConstraintKind.UNIQUE):
        return []
    found = dependents.keys_on(table, key.columns, draft.schema)
    return [(other, one) for other, one in found if set(one.referenced_columns) == set(key.columns)]


FORETOLD: dict[type[Operation], Callable[[Any, Draft], None]] = {
    AddConstraint: add_constraint,
    SetNotNull: set_not_null,
    DropNotNull: drop_not_null,
    ValidateConstraint: validate_constraint,
    AlterConstraint: alter_constraint,
    DropConstraint: drop_constraint,
}
