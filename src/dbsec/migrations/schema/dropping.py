"""DROP and TRUNCATE: what a schema holds after it, with what goes along."""

from __future__ import annotations

from msgspec.structs import replace

from dbsec.migrations import tree
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Drop, DropColumn, Truncate, Type
from dbsec.migrations.schema import constraining, places
from dbsec.migrations.schema.model import Index, Schema, Table
from dbsec.migrations.statement import Node

_TABLES = ("table", "foreign table", "materialized view")
_FUNCTIONS = ("function", "procedure", "routine", "aggregate")
_OF_A_TABLE = ("trigger", "policy", "rule")


def drop(schema: Schema, operation: Drop) -> None:
    """DROP of one object; what is not known is not missed."""
    name = operation.name
    if operation.kind in _OF_A_TABLE:
        _drop_of_table(schema, operation)
    elif operation.kind in _TABLES:
        if (table := schema.table(name)) is not None:
            drop_table(schema, table, cascade=operation.cascade)
    elif operation.kind == "view":
        if (view := schema.view(name)) is not None:
            _drop_view(schema, view.name, cascade=operation.cascade)
    elif operation.kind == "index":
        _drop_index(schema, name)
    elif operation.kind == "sequence":
        if (sequence := places.find(schema, schema.sequences, name)) is not None:
            _drop_sequence(schema, sequence, cascade=operation.cascade)
    elif operation.kind in ("type", "domain"):
        _drop_type(schema, operation)
    elif operation.kind in _FUNCTIONS:
        if (function := places.find(schema, schema.functions, name)) is not None:
            del schema.functions[function]
    elif operation.kind == "schema":
        _drop_schema(schema, name.name)
    for one in (name, schema.qualified(name)):
        schema.new_objects.discard((operation.kind, one))


def _drop_of_table(schema: Schema, operation: Drop) -> None:
    table = schema.table(operation.table) if operation.table else None
    if table is not None:
        held = {"trigger": table.triggers, "policy": table.policies, "rule": table.rules}[operation.kind]
        held.discard(operation.name.name)
        table.pinned.pop((operation.kind, operation.name.name), None)


def drop_table(schema: Schema, table: Table, *, cascade: bool) -> None:
    """Drop a table with its partitions; ``cascade``: its children, the views and foreign keys on it too."""
    for heir in list(places.heirs(schema, table)):
        if heir.partition_of == table.name or cascade:
            drop_table(schema, heir, cascade=cascade)
    places.remove(schema, table)
    schema.views.pop(table.name, None)
    schema.new_objects.discard((table.kind, table.name))
    for column in table.columns:
        _forget_sequences(schema, table, column)
    if cascade:
        for other, key in list(schema.referencing(table.name)):
            places.take_constraint(other, key.name or "")
        _drop_views_on(schema, table.name)


def _drop_views_on(schema: Schema, name: Name) -> None:
    for view in list(schema.views_on(name)):
        _drop_view(schema, view.name, cascade=True)


def _drop_view(schema: Schema, name: Name, *, cascade: bool) -> None:
    view = schema.views.pop(name, None)
    if view is None:
        return
    schema.new_objects.discard(("view", name))
    if (table := schema.tables.get(name)) is not None:
        places.remove(schema, table)
    if cascade:
        _drop_views_on(schema, name)


def _drop_index(schema: Schema, name: Name) -> None:
    index = schema.index(name)
    if index is not None:
        table = schema.tables[index.table]
        schema.new_objects.discard(("index", Name(table.name.schema, index.name)))
        constraining.drop_index(schema, table, index.name)


def sequence_of(default: Node | None) -> str | None:
    """Name the sequence of a default ``nextval('…')``."""
    called = (default or {}).get("FuncCall")
    if not called or tree.texts(called.get("funcname"))[-1:] != ("nextval",):
        return None
    return tree.constant((called.get("args") or [None])[0])


def _forget_sequences(schema: Schema, table: Table, column: str) -> None:
    """What a column owns goes with it."""
    for sequence in [one for one, owner in schema.owners.items() if owner == (table.name, column)]:
        schema.sequences.discard(sequence)
        schema.new_objects.discard(("sequence", sequence))
        del schema.owners[sequence]


def _drop_sequence(schema: Schema, sequence: Name, *, cascade: bool) -> None:
    schema.sequences.discard(sequence)
    schema.owners.pop(sequence, None)
    for table in schema.tables.values() if cascade else ():
        for column in list(table.columns.values()):
            if sequence_of(column.default) == str(sequence):
                table.columns[column.name] = replace(column, default=None)


def _drop_type(schema: Schema, operation: Drop) -> None:
    domain = schema.domain(Type(operation.name.name, operation.name.schema))
    name = domain.name if domain else places.find(schema, schema.types, operation.name)
    if name is None:
        return
    schema.domains.pop(name, None)
    schema.types.pop(name, None)
    schema.new_types.discard(name)
    for table in list(schema.tables.values()) if operation.cascade else ():
        for column in list(table.columns.values()):
            if (column.type.schema, column.type.name) == name:
                _take_column(schema, table, column.name, cascade=True)


def _drop_schema(schema: Schema, name: str) -> None:
    for table in [one for one in schema.tables.values() if one.name.schema == name]:
        if table.name in schema.tables:
            drop_table(schema, table, cascade=True)
    for view in [one for one in schema.views if one.schema == name]:
        _drop_view(schema, view, cascade=True)
    for held in (schema.domains, schema.types, schema.functions, schema.owners):
        for one in [one for one in held if one.schema == name]:
            del held[one]
    schema.sequences = {one for one in schema.sequences if one.schema != name}
    schema.new_types = {one for one in schema.new_types if one.schema != name}
    schema.new_objects = {(kind, one) for kind, one in schema.new_objects if one.schema != name}


def drop_column(schema: Schema, operation: DropColumn) -> None:
    """DROP COLUMN, of the partitions and children too."""
    table = schema.table(operation.table)
    for heir in list(places.family(schema, table, only=operation.only)) if table else ():
        _take_column(schema, heir, operation.column, cascade=operation.cascade)


def _take_column(schema: Schema, table: Table, name: str, *, cascade: bool) -> None:
    """Take a column with the indexes and constraints that use it; ``cascade``: generated columns and views too."""
    column = table.columns.pop(name, None)
    if column is None:
        return
    table.new_columns.discard(name)
    _forget_sequences(schema, table, name)
    for index in [one for one in table.indexes.values() if name in columns_of(one)]:
        constraining.drop_index(schema, table, index.name)
    table.constraints[:] = [one for one in table.constraints if name not in one.columns]
    if not cascade:
        return
    for other, key in list(schema.referencing(table.name)):
        if name in key.referenced_columns:
            places.take_constraint(other, key.name or "")
    for view in list(schema.views_on(table.name)):
        if (str(table.name), name) in view.columns_read:
            _drop_view(schema, view.name, cascade=True)
    for other_column in list(table.columns.values()):
        if name in tree.columns_in(other_column.expression):
            _take_column(schema, table, other_column.name, cascade=True)


def columns_of(index: Index) -> set[str]:
    """Name all columns that an index needs: key, INCLUDE, expressions and predicate."""
    used = {*index.columns, *index.include, *tree.columns_in(index.predicate)} - {""}
    return used.union(*(tree.columns_in(expression) for expression in index.expressions))


def truncate(schema: Schema, operation: Truncate) -> None:
    """TRUNCATE: what this release made is empty again."""
    for name in operation.tables:
        table = schema.table(name)
        for heir in places.family(schema, table) if table else ():
            heir.filled = False
