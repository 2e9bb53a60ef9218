"""ALTER of tables, columns, domains and types: what a schema holds after it."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from dbsec.migrations import tree
from dbsec.migrations.operations import (
    AddColumn,
    AddConstraint,
    AlterColumnType,
    AlterConstraint,
    AlterDomain,
    AlterFunction,
    AlterIdentity,
    Column,
    Constraint,
    ConstraintKind,
    DropConstraint,
    DropDefault,
    DropExpression,
    DropNotNull,
    OnTable,
    RowSecurity,
    SetDefault,
    SetExpression,
    SetNotNull,
    SetPersistence,
    Type,
    ValidateConstraint,
)
from dbsec.migrations.schema import constraining, creating, nullability, places
from dbsec.migrations.schema.model import Schema, Table

_IDENTITY = {True: "always", False: "by default"}
_Nullability = SetNotNull | DropNotNull
_Redefinition = AlterColumnType | SetDefault | DropDefault | SetExpression | DropExpression | AlterIdentity


def family(schema: Schema, operation: OnTable) -> Iterator[Table]:
    """Yield the tables that an ALTER TABLE is for; none where the table is not known."""
    table = schema.table(operation.table)
    return places.family(schema, table, only=operation.only) if table else iter(())


def add_column(schema: Schema, operation: AddColumn, *, released: bool) -> None:
    """ADD COLUMN, to the partitions and children too."""
    column, table = operation.column, schema.table(operation.table)
    if table is None or column.name in table.columns:
        return
    for heir in list(family(schema, operation)):
        if column.name not in heir.columns:
            creating.put_column(schema, heir, column, released=released)
            if released:
                heir.new_columns.add(column.name)
    nullability.hand_down_column(schema, table, column.name)
    for constraint in column.constraints:
        constraining.add(schema, table, replace(constraint, valid=constraint.enforced), only=operation.only)


def change_column(schema: Schema, operation: _Nullability | _Redefinition) -> None:
    """ALTER COLUMN, of the partitions and children too."""
    table = schema.table(operation.table)
    if isinstance(operation, SetNotNull):
        if table is not None:
            nullability.require(schema, table, operation.column, only=operation.only)
        return
    for heir in family(schema, operation):
        if isinstance(operation, DropNotNull):
            nullability.drop(heir, operation.column)
        elif (old := heir.columns.get(operation.column)) is not None:
            heir.columns[old.name] = _changed(schema, old, operation)


def _changed(schema: Schema, old: Column, operation: _Redefinition) -> Column:
    match operation:
        case AlterColumnType():
            kind = places.settled_type(schema, operation.type)
            return replace(old, type=kind, collation=operation.collation)
        case SetDefault():
            return replace(old, default=None if tree.is_null(operation.default) else operation.default)
        case DropDefault():
            return replace(old, default=None)
        case SetExpression():
            return replace(old, expression=operation.expression)
        case DropExpression():
            return replace(old, generated=None, expression=None)
        case AlterIdentity(act="drop"):
            return replace(old, identity=None)
        case AlterIdentity(act="add"):
            return replace(old, identity=_IDENTITY[bool(operation.always)], not_null=True)
        case AlterIdentity() if operation.always is not None:
            return replace(old, identity=_IDENTITY[operation.always])
    return old


def add_constraint(schema: Schema, operation: AddConstraint) -> None:
    """ADD CONSTRAINT, to the partitions and children too."""
    table = schema.table(operation.table)
    if table is not None:
        constraining.add(schema, table, operation.constraint, only=operation.only)


def validate_constraint(schema: Schema, operation: ValidateConstraint) -> None:
    """VALIDATE CONSTRAINT; a NOT NULL (18) is proven from here on."""
    for heir in family(schema, operation):
        found = heir.constraint(operation.name)
        if found is not None and found.kind is ConstraintKind.NOT_NULL:
            nullability.set_not_null(heir, found.columns[0])
        elif found is not None and found.enforced:
            places.put_constraint(schema, heir, replace(found, valid=True))


def alter_constraint(schema: Schema, operation: AlterConstraint) -> None:
    """ALTER CONSTRAINT … [NOT] ENFORCED: PostgreSQL checks the rows when it enforces one."""
    if operation.enforced is None:
        return
    for heir in family(schema, operation):
        if (found := heir.constraint(operation.name)) is not None:
            places.put_constraint(schema, heir, replace(found, enforced=operation.enforced, valid=operation.enforced))


def drop_constraint(schema: Schema, operation: DropConstraint) -> None:
    """DROP CONSTRAINT; CASCADE takes the foreign keys that need it."""
    table = schema.table(operation.table)
    if table is None:
        return
    found = table.constraint(operation.name)
    constraining.drop(schema, table, operation.name, only=operation.only)
    if operation.cascade and found is not None and found.kind in (ConstraintKind.UNIQUE, ConstraintKind.PRIMARY_KEY):
        for other, key in list(schema.referencing(table.name)):
            if set(key.referenced_columns) == set(found.columns):
                places.take_constraint(other, key.name or "")


def row_security(schema: Schema, operation: RowSecurity) -> None:
    """ENABLE and DISABLE ROW LEVEL SECURITY."""
    table = schema.table(operation.table)
    if table is not None and operation.act in ("enable", "disable"):
        table.row_security = operation.act == "enable"


def set_persistence(schema: Schema, operation: SetPersistence) -> None:
    """SET LOGGED and SET UNLOGGED."""
    table = schema.table(operation.table)
    if table is not None and operation.relation == "table":
        table.persistence = "permanent" if operation.logged else "unlogged"


def alter_domain(schema: Schema, operation: AlterDomain) -> None:
    """ALTER DOMAIN."""
    domain = schema.domain(Type(operation.domain.name, operation.domain.schema))
    if domain is None:
        return
    match operation.act:
        case "add constraint" if operation.constraint:
            creating.add_to_domain(schema, domain, operation.constraint)
        case "set not null":
            creating.add_to_domain(schema, domain, Constraint(ConstraintKind.NOT_NULL))
        case "drop not null":
            domain.constraints[:] = [one for one in domain.constraints if one.kind is not ConstraintKind.NOT_NULL]
        case "drop constraint":
            domain.constraints[:] = [one for one in domain.constraints if one.name != operation.name]
        case "validate constraint":
            domain.constraints[:] = [
                replace(one, valid=True) if one.name == operation.name else one for one in domain.constraints
            ]
        case "set default" | "drop default":
            domain.default = operation.default


def alter_function(schema: Schema, operation: AlterFunction) -> None:
    """ALTER FUNCTION: its volatility."""
    name = places.find(schema, schema.functions, operation.name)
    if operation.volatility is not None and name is not None:
        schema.functions[name] = operation.volatility
