"""Constraints and indexes of a table: named as PostgreSQL names them, handed down to partitions and children."""

from __future__ import annotations

from msgspec.structs import replace

from dbsec.migrations import tree
from dbsec.migrations.operations import Constraint, ConstraintKind, CreateIndex
from dbsec.migrations.schema import naming, nullability, places
from dbsec.migrations.schema.model import Index, Schema, Table

_KEYS = (ConstraintKind.UNIQUE, ConstraintKind.PRIMARY_KEY)
_LABELS = {ConstraintKind.PRIMARY_KEY: "pkey", ConstraintKind.UNIQUE: "key", ConstraintKind.EXCLUDE: "excl"}


def add(schema: Schema, table: Table, constraint: Constraint, *, only: bool = False) -> None:
    """Add a constraint as ALTER TABLE … ADD does; ``only``: not to partitions and children."""
    match constraint.kind:
        case ConstraintKind.CHECK:
            _add_check(schema, table, constraint, only=only)
        case ConstraintKind.NOT_NULL:
            for column in constraint.columns:
                nullability.require(schema, table, column, constraint, only=only or constraint.no_inherit)
        case ConstraintKind.FOREIGN_KEY:
            _add_foreign_key(schema, table, constraint)
        case _ if constraint.using_index:
            _use_index(schema, table, constraint)
        case _:
            add_index(schema, table, _index_of(schema, table, constraint), constraint, only=only)


def _add_check(schema: Schema, table: Table, constraint: Constraint, *, only: bool) -> None:
    settled = with_columns(table, constraint)
    middle = settled.columns[0] if len(settled.columns) == 1 else None
    name = constraint.name or places.free_constraint(schema, table.name, middle, "check")
    settled = replace(settled, name=name)
    for heir in places.family(schema, table, only=only or constraint.no_inherit):
        if heir is table or heir.constraint(name) is None:
            places.put_constraint(schema, heir, settled)


def with_columns(table: Table, constraint: Constraint) -> Constraint:
    """Say which columns a CHECK reads."""
    if constraint.kind is not ConstraintKind.CHECK:
        return constraint
    columns = (name for name in tree.columns_in(constraint.expression) if name in table.columns)
    return replace(constraint, columns=tuple(columns))


def _add_foreign_key(schema: Schema, table: Table, constraint: Constraint) -> None:
    """Partitions bear the foreign key of their parent; children of INHERITS do not."""
    settled = settled_foreign_key(schema, table, constraint)
    places.put_constraint(schema, table, settled)
    if table.partition_by:
        for part in places.family(schema, table):
            if part is not table and part.partition_of:
                hand_down_foreign_key(schema, part, settled)


def hand_down_foreign_key(schema: Schema, part: Table, constraint: Constraint) -> None:
    """Give a partition its parent's foreign key, unless it has one that says the same."""
    if part.kind == "foreign table":
        return
    for own in part.of_kind(ConstraintKind.FOREIGN_KEY):
        same = (own.columns, own.references, own.referenced_columns)
        if same == (constraint.columns, constraint.references, constraint.referenced_columns):
            return
    name = constraint.name
    if name is None or part.constraint(name) is not None:
        middle = naming.addition(constraint.columns)
        name = places.free_constraint(schema, part.name, middle, "fkey")
    places.put_constraint(schema, part, replace(constraint, name=name))


def settled_foreign_key(schema: Schema, table: Table, constraint: Constraint) -> Constraint:
    """Name a foreign key, and say what it points to in full."""
    written = constraint.references
    assert written is not None, "a foreign key references a table"
    target = table if written in (table.name, (None, table.name.name)) else schema.table(written)
    name = constraint.name or places.free_constraint(schema, table.name, naming.addition(constraint.columns), "fkey")
    columns = constraint.referenced_columns
    if target is not None and not columns:
        columns = next((key.columns for key in target.of_kind(ConstraintKind.PRIMARY_KEY)), ())
    references = target.name if target else schema.qualified(written)
    return replace(constraint, name=name, references=references, referenced_columns=columns)


def _index_of(schema: Schema, table: Table, constraint: Constraint) -> Index:
    label = _LABELS[constraint.kind]
    keys = naming.index_columns((*constraint.columns, *constraint.include), constraint.expressions)
    middle = None if constraint.kind is ConstraintKind.PRIMARY_KEY else naming.addition(keys)
    name = constraint.name or places.free_relation(schema, table.name, middle, label, constraint=True)
    return Index(
        name,
        table.name,
        constraint.columns,
        constraint.include,
        constraint.expressions,
        constraint.expression,
        constraint.kind in _KEYS,
        constraint.method,
        constraint=name,
    )


def add_index(
    schema: Schema, table: Table, index: Index, constraint: Constraint | None = None, *, only: bool = False
) -> None:
    """Put an index, and the constraint that it backs, on a table and on its partitions.

    With ``only`` it stays invalid until each partition has one.
    """
    parts = list(places.heirs(schema, table)) if table.partition_by else []
    index.valid = not (only and parts)
    places.put_index(schema, table, index)
    if constraint is not None:
        settled = replace(constraint, name=index.name, columns=index.columns, using_index=None)
        places.put_constraint(schema, table, settled)
        if constraint.kind is ConstraintKind.PRIMARY_KEY:
            for column in index.columns:
                nullability.set_not_null(table, column)
    for part in () if only else parts:
        hand_down_index(schema, part, index, constraint)


def hand_down_index(schema: Schema, part: Table, index: Index, constraint: Constraint | None) -> None:
    """Attach the index of a partition that matches its parent's, else make one with PostgreSQL's name."""
    if part.kind == "foreign table":
        return
    for own in part.indexes.values():
        if own.parent is None and _same(own, index):
            own.parent = index.name
            return
    primary = constraint is not None and constraint.kind is ConstraintKind.PRIMARY_KEY
    keys = naming.index_columns((*index.columns, *index.include), index.expressions)
    middle = None if primary else naming.addition(keys)
    label = _LABELS[constraint.kind] if constraint else "idx"
    name = places.free_relation(schema, part.name, middle, label, constraint=constraint is not None)
    own = replace(index, name=name, table=part.name, constraint=name if constraint else None, parent=index.name)
    add_index(schema, part, own, constraint)


def _same(own: Index, index: Index) -> bool:
    return (
        own.valid
        and (own.constraint is not None or index.constraint is None)
        and (own.columns, own.include, own.unique, own.method)
        == (index.columns, index.include, index.unique, index.method)
        and tree.bare(own.expressions) == tree.bare(index.expressions)
        and tree.bare(own.predicate) == tree.bare(index.predicate)
    )


def _use_index(schema: Schema, table: Table, constraint: Constraint) -> None:
    """ADD … USING INDEX: the index takes the constraint's name."""
    index = table.indexes.get(constraint.using_index or "")
    if index is None:
        return
    if constraint.name and constraint.name != index.name:
        places.take_index(schema, table, index.name)
        index.name = constraint.name
        places.put_index(schema, table, index)
    index.constraint = index.name
    settled = replace(constraint, name=index.name, columns=index.columns, include=index.include, using_index=None)
    places.put_constraint(schema, table, settled)
    if constraint.kind is ConstraintKind.PRIMARY_KEY:
        for column in index.columns:
            nullability.set_not_null(table, column)


def index_of(operation: CreateIndex, table: Table, name: str) -> Index:
    """Make the index that CREATE INDEX describes."""
    return Index(
        name,
        table.name,
        operation.columns,
        operation.include,
        operation.expressions,
        operation.predicate,
        operation.unique,
        operation.method,
        collations=operation.collations,
    )


def create_index(schema: Schema, operation: CreateIndex, *, released: bool) -> None:
    """CREATE INDEX on a table or materialized view."""
    table = schema.table(operation.table)
    place = table.name.schema if table else schema.qualified(operation.table).schema
    name = operation.name
    if table is not None:
        if name in table.indexes:
            return
        keys = naming.index_columns((*operation.columns, *operation.include), operation.expressions)
        name = name or places.free_relation(schema, table.name, naming.addition(keys), "idx")
        index = index_of(operation, table, name)
        add_index(schema, table, index, only=operation.only)
    if released and name:
        schema.new_objects.add(("index", (operation.table._replace(schema=place, name=name))))


def drop(schema: Schema, table: Table, name: str, *, only: bool = False) -> None:
    """Drop a constraint with its index, from partitions and children too; NOT NULL (18) by its name as well."""
    found = table.constraint(name)
    if found is None:
        for column in table.columns:
            if naming.joined(table.name.name, column, "not_null") == name:
                for heir in places.family(schema, table, only=only):
                    nullability.drop(heir, column)
        return
    if found.kind is ConstraintKind.NOT_NULL:
        for heir in places.family(schema, table, only=only):
            nullability.drop(heir, found.columns[0])
        return
    places.take_constraint(table, name)
    if found.kind in _LABELS:
        drop_index(schema, table, name)
    elif not only:
        for heir in places.family(schema, table):
            places.take_constraint(heir, name)


def drop_index(schema: Schema, table: Table, name: str) -> None:
    """Drop an index, the constraint that it backs, and those of the partitions that hang on it."""
    gone = places.take_index(schema, table, name)
    if gone is not None and gone.constraint is not None:
        places.take_constraint(table, gone.constraint)
    if gone is None or not table.partition_by:
        return
    for part in places.heirs(schema, table):
        for own in [index.name for index in part.indexes.values() if index.parent == name]:
            drop_index(schema, part, own)
