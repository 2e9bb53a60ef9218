"""CREATE: what a schema holds after it."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from dbsec.migrations import tree
from dbsec.migrations.interpret.columns import SERIALS
from dbsec.migrations.names import Name
from dbsec.migrations.operations import (
    Column,
    Constraint,
    ConstraintKind,
    CreateDomain,
    CreateTable,
    CreateTableAs,
    CreateView,
    Type,
)
from dbsec.migrations.schema import constraining, naming, nullability, partitioning, places
from dbsec.migrations.schema.model import Domain, Schema, Table, View
from dbsec.migrations.schema.reading import read
from dbsec.migrations.statement import Node

_ORDER = (
    ConstraintKind.NOT_NULL,
    ConstraintKind.CHECK,
    ConstraintKind.PRIMARY_KEY,
    ConstraintKind.UNIQUE,
    ConstraintKind.EXCLUDE,
    ConstraintKind.FOREIGN_KEY,
)


def create_table(schema: Schema, operation: CreateTable, *, released: bool) -> None:
    """CREATE TABLE; one that is there already stays as it is."""
    name = places.of_new_table(schema, operation.table, temporary=operation.persistence == "temporary")
    if places.relation_taken(schema, name):
        return
    parents = [schema.table(one) or one for one in _parents(operation)]
    named = tuple(one.name if isinstance(one, Table) else schema.qualified(one) for one in parents)
    known = [one for one in parents if isinstance(one, Table)]
    table = Table(
        name,
        kind="foreign table" if operation.foreign else "table",
        persistence=operation.persistence,
        partition_by=operation.partition_by,
        partition_of=named[0] if operation.partition_of else None,
        bound=operation.bound,
        inherits=() if operation.partition_of else named,
        of_type=schema.qualified(operation.of_type) if operation.of_type else None,
        new=released,
    )
    for parent in known:
        partitioning.copy_columns(schema, parent, table)
    likes = [(schema.table(one), wanted) for one, wanted in zip(operation.like, operation.including, strict=False)]
    for model, wanted in likes:
        _copy_like(schema, table, model, wanted)
    places.place(schema, table)
    if released:
        schema.new_objects.add((table.kind, name))
    for column in operation.columns:
        _declare(schema, table, column, released=released)
    for parent in known:
        for column_name in parent.columns:
            nullability.hand_down(schema, parent, table, column_name)
        partitioning.copy_checks(schema, parent, table)
    for constraint in sorted(_constraints(operation), key=lambda one: _ORDER.index(one.kind)):
        if not _repeated(table, constraint):
            constraining.add(schema, table, replace(constraint, valid=constraint.enforced))
    for model, wanted in likes:
        _copy_constraints(schema, table, model, wanted)
    if operation.partition_of and known:
        partitioning.copy_indexes(schema, known[0], table)


def _parents(operation: CreateTable) -> tuple[Name, ...]:
    return (operation.partition_of,) if operation.partition_of else operation.inherits


def _constraints(operation: CreateTable) -> Iterator[Constraint]:
    for column in operation.columns:
        yield from column.constraints
    yield from operation.constraints


def _repeated(table: Table, constraint: Constraint) -> bool:
    """PostgreSQL makes one index of ``PRIMARY KEY UNIQUE`` on the same columns."""
    if constraint.kind is not ConstraintKind.UNIQUE or constraint.name:
        return False
    return any(
        index.columns == constraint.columns and index.include == constraint.include and index.constraint
        for index in table.indexes.values()
        if index.unique
    )


def _declare(schema: Schema, table: Table, column: Column, *, released: bool) -> None:
    """Add a column of CREATE TABLE; one that is inherited is only added to."""
    inherited = table.columns.get(column.name)
    if inherited is None:
        put_column(schema, table, column, released=released)
        return
    table.columns[column.name] = replace(
        inherited,
        not_null=inherited.not_null or column.not_null,
        default=column.default or inherited.default,
        identity=column.identity or inherited.identity,
        generated=column.generated or inherited.generated,
        expression=column.expression or inherited.expression,
    )


def put_column(schema: Schema, table: Table, column: Column, *, released: bool) -> None:
    """Put a new column on a table: serial becomes an integer with a sequence; its constraints are not added here."""
    default = None if tree.is_null(column.default) else column.default
    kind = places.settled_type(schema, column.type)
    settled = column
    if column.constraints or kind is not column.type or default is not column.default:
        settled = replace(column, type=kind, default=default, constraints=())
    if column.type.schema is None and (integer := SERIALS.get(column.type.name)):
        sequence = places.free_relation(schema, table.name, column.name, "seq")
        name = Name(table.name.schema, sequence)
        schema.sequences.add(name)
        schema.owners[name] = (table.name, column.name)
        if released:
            schema.new_objects.add(("sequence", name))
        settled = replace(settled, type=Type(integer), default=next_value(name))
    table.columns[column.name] = settled


def next_value(sequence: Name) -> Node:
    """Make the node of ``nextval('app.users_id_seq'::regclass)``."""
    kind = {"names": [{"String": {"sval": "regclass"}}], "typemod": -1}
    text = {"A_Const": {"sval": {"sval": str(sequence)}}}
    argument = {"TypeCast": {"arg": text, "typeName": kind}}
    called = {"funcname": [{"String": {"sval": "nextval"}}], "args": [argument], "funcformat": "COERCE_EXPLICIT_CALL"}
    return {"FuncCall": called}


def _copy_like(schema: Schema, table: Table, model: Table | None, wanted: frozenset[str]) -> None:
    if model is None:
        return
    for column in model.columns.values():
        if (named := nullability.spelled(schema, model, column.name)) is not None:
            table.constraints.append(named)
        is_generated = column.generated is not None
        table.columns[column.name] = replace(
            column,
            default=column.default if "defaults" in wanted else None,
            identity=column.identity if "identity" in wanted else None,
            generated=column.generated if is_generated and "generated" in wanted else None,
            expression=column.expression if is_generated and "generated" in wanted else None,
        )


def _copy_constraints(schema: Schema, table: Table, model: Table | None, wanted: frozenset[str]) -> None:
    if model is None:
        return
    if "constraints" in wanted:
        for check in model.of_kind(ConstraintKind.CHECK):
            constraining.add(schema, table, replace(check, valid=check.enforced))
    for index in list(model.indexes.values()) if "indexes" in wanted else ():
        partitioning.copy_index(schema, model, table, index)


def create_table_as(schema: Schema, operation: CreateTableAs, *, released: bool) -> None:
    """CREATE TABLE AS and CREATE MATERIALIZED VIEW: the rows are written at once."""
    name = places.of_new_table(schema, operation.table, temporary=operation.temporary)
    if places.relation_taken(schema, name):
        return
    reading = read(schema, operation.query, operation.columns)
    table = Table(
        name,
        columns={one: Column(one, places.settled_type(schema, kind)) for one, kind in reading.output},
        kind="materialized view" if operation.materialized else "table",
        persistence="temporary" if operation.temporary else "permanent",
        new=released,
        filled=released and operation.with_data,
    )
    places.place(schema, table)
    if operation.materialized:
        read_columns = tuple(sorted(reading.columns))
        schema.views[name] = View(
            name, tuple(sorted(reading.relations)), read_columns, True, released, tuple(table.columns)
        )
    if released:
        schema.new_objects.add((table.kind, name))


def create_view(schema: Schema, operation: CreateView, *, released: bool) -> None:
    """CREATE VIEW, or another query for one that is there."""
    name = schema.qualified(operation.view)
    old = schema.views.get(name)
    if old is None and places.relation_taken(schema, name):
        return
    reading = read(schema, operation.query, operation.columns)
    new = released if old is None else old.new
    columns = tuple(column for column, _ in reading.output)
    schema.views[name] = View(
        name, tuple(sorted(reading.relations)), tuple(sorted(reading.columns)), False, new, columns
    )
    if released and old is None:
        schema.new_objects.add(("view", name))


def create_domain(schema: Schema, operation: CreateDomain, *, released: bool) -> None:
    """CREATE DOMAIN."""
    name = schema.qualified(operation.name)
    if name in schema.domains:
        return
    domain = Domain(name, places.settled_type(schema, operation.base), default=operation.default, new=released)
    schema.domains[name] = domain
    for constraint in operation.constraints:
        add_to_domain(schema, domain, constraint)
    if released:
        schema.new_types.add(name)
        schema.new_objects.add(("domain", name))


def add_to_domain(schema: Schema, domain: Domain, constraint: Constraint) -> None:
    """Add a constraint to a domain under PostgreSQL's name; NOT NULL has none but one that is written."""
    name = constraint.name
    if constraint.kind is ConstraintKind.NOT_NULL:
        if any(one.kind is ConstraintKind.NOT_NULL for one in domain.constraints):
            return
        name = None if name == naming.joined(domain.name.name, None, "not_null") else name
    else:
        name = name or places.free_constraint(schema, domain.name, None, "check")
    schema.constraint_names.add(Name(domain.name.schema, name or ""))
    domain.constraints.append(replace(constraint, name=name, columns=()))
