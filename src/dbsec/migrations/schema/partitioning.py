"""Partitions and children: what they take over from their parents, and how they come and go."""

from __future__ import annotations

from msgspec.structs import replace

from dbsec.migrations.operations import AttachPartition, ConstraintKind, DetachPartition, Inherit
from dbsec.migrations.schema import constraining, naming, nullability, places
from dbsec.migrations.schema.model import Index, Schema, Table

_KEYS = (ConstraintKind.PRIMARY_KEY, ConstraintKind.UNIQUE)
_IDENTITY_OF_PARTITIONS = 17


def copy_columns(schema: Schema, parent: Table, child: Table) -> None:
    """Give a new table its parent's columns; a partition has its parent's identity from 17 on."""
    with_identity = child.partition_of is not None and (schema.major or _IDENTITY_OF_PARTITIONS) >= (
        _IDENTITY_OF_PARTITIONS
    )
    for column in parent.columns.values():
        taken = column if with_identity else replace(column, identity=None)
        old = child.columns.get(column.name)
        child.columns[column.name] = replace(taken, not_null=True) if old and old.not_null else taken


def copy_checks(schema: Schema, parent: Table, child: Table) -> None:
    """Give a partition or child its parent's CHECK constraints."""
    for constraint in parent.of_kind(ConstraintKind.CHECK):
        if not constraint.no_inherit and child.constraint(constraint.name or "") is None:
            places.put_constraint(schema, child, replace(constraint, valid=constraint.enforced))


def copy_indexes(schema: Schema, parent: Table, part: Table) -> None:
    """Give a partition an index for each of its parent's, and the foreign keys."""
    for index in list(parent.indexes.values()):
        constraint = parent.constraint(index.constraint) if index.constraint else None
        constraining.hand_down_index(schema, part, index, constraint)
    for constraint in list(parent.of_kind(ConstraintKind.FOREIGN_KEY)):
        constraining.hand_down_foreign_key(schema, part, constraint)


def copy_index(schema: Schema, model: Table, table: Table, index: Index) -> None:
    """Give a table of LIKE … INCLUDING INDEXES one of its model's, under PostgreSQL's name."""
    constraint = model.constraint(index.constraint) if index.constraint else None
    if constraint is not None:
        constraining.add(schema, table, replace(constraint, name=None))
        return
    keys = naming.index_columns((*index.columns, *index.include), index.expressions)
    name = places.free_relation(schema, table.name, naming.addition(keys), "idx")
    own = replace(index, name=name, table=table.name, parent=None, valid=True)
    constraining.add_index(schema, table, own)


def attach(schema: Schema, operation: AttachPartition) -> None:
    """ATTACH PARTITION of a table, or of an index."""
    if operation.relation == "index":
        _attach_index(schema, operation)
        return
    parent, part = schema.table(operation.table), schema.table(operation.partition)
    if parent is not None and parent.new and (part is None or not part.empty):
        _filled_up(schema, parent)
    if parent is None or part is None or places.is_above(schema, part, parent):
        return
    part.partition_of, part.bound, part.inherits = parent.name, operation.bound, ()
    places.link(schema, parent.name, part.name)
    for name in [name for name, column in part.columns.items() if not column.not_null]:
        nullability.hand_down(schema, parent, part, name)
    _same_identity(schema, parent, part)
    copy_checks(schema, parent, part)
    copy_indexes(schema, parent, part)


def _same_identity(schema: Schema, parent: Table, part: Table) -> None:
    if (schema.major or _IDENTITY_OF_PARTITIONS) < _IDENTITY_OF_PARTITIONS:
        return
    for name, column in parent.columns.items():
        if column.identity and name in part.columns:
            part.columns[name] = replace(part.columns[name], identity=column.identity, not_null=True)


def _filled_up(schema: Schema, table: Table) -> None:
    """Note rows in a table and in all above it."""
    table.filled = True
    for name in places.parents_of(table):
        if (parent := schema.tables.get(name)) is not None:
            _filled_up(schema, parent)


def fill(schema: Schema, table: Table) -> None:
    """Note that a table, its partitions and its parents may have rows now."""
    for heir in places.family(schema, table):
        heir.filled = True
    _filled_up(schema, table)


def _attach_index(schema: Schema, operation: AttachPartition) -> None:
    index, own = schema.index(operation.table), schema.index(operation.partition)
    if index is None or own is None:
        return
    own.parent = index.name
    _validate(schema, index)


def _validate(schema: Schema, index: Index) -> None:
    """An index made with ONLY is valid as soon as every partition has a valid one for it."""
    table = schema.tables.get(index.table)
    if index.valid or table is None:
        return
    parts = [part for part in places.heirs(schema, table) if part.kind != "foreign table"]
    index.valid = all(any(own.parent == index.name and own.valid for own in part.indexes.values()) for part in parts)
    above = schema.tables.get(table.partition_of) if index.valid and table.partition_of else None
    if above is not None and (parent := above.indexes.get(index.parent or "")) is not None:
        _validate(schema, parent)


def detach(schema: Schema, operation: DetachPartition) -> None:
    """DETACH PARTITION: its indexes and foreign keys stay, as its own."""
    part = schema.table(operation.partition)
    if part is None or part.partition_of is None:
        return
    places.unlink(schema, part.partition_of, part.name)
    part.partition_of = part.bound = None
    for index in part.indexes.values():
        index.parent = None


def inherit(schema: Schema, operation: Inherit) -> None:
    """INHERIT and NO INHERIT."""
    child, parent = schema.table(operation.table), schema.table(operation.parent)
    if child is None or (parent is not None and places.is_above(schema, child, parent)):
        return
    name = parent.name if parent else schema.qualified(operation.parent)
    child.inherits = tuple(one for one in child.inherits if one != name)
    places.unlink(schema, name, child.name)
    if operation.add:
        child.inherits = (*child.inherits, name)
        places.link(schema, name, child.name)
        if parent is not None and parent.new and not child.empty:
            _filled_up(schema, parent)
