"""RENAME COLUMN: every place of a schema that bears a column's name."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from dbsec.migrations import tree
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Column, Constraint
from dbsec.migrations.schema import nullability, places
from dbsec.migrations.schema.model import Schema, Table, View


def of_view(schema: Schema, view: View, old: str, new: str) -> None:
    """Rename a column of a view, and in the views on it."""
    view.columns = tuple(new if column == old else column for column in view.columns)
    _tell_readers(schema, view.name, old, new)


def _tell_readers(schema: Schema, relation: Name, old: str, new: str) -> None:
    """Views follow the column by its number: they go on, and read it under its new name."""
    for view in schema.views_on(relation):
        pairs = ((of, new if (of, name) == (str(relation), old) else name) for of, name in view.columns_read)
        view.columns_read = tuple(sorted(pairs))


def of_table(schema: Schema, table: Table, old: str, new: str) -> None:
    """Rename a column of one table (not of its heirs), and wherever it is named."""
    if old not in table.columns:
        return
    nullability.keep_name(schema, table, old)

    def called(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(new if name == old else name for name in names)

    columns = (_recolumned(column, old, new) for column in table.columns.values())
    table.columns = {column.name: column for column in columns}
    table.constraints[:] = [_reworded(one, called, old, new) for one in table.constraints]
    for index in table.indexes.values():
        index.columns, index.include = called(index.columns), called(index.include)
        index.expressions = tuple(tree.renamed(one, old, new) for one in index.expressions)
        index.predicate = tree.renamed(index.predicate, old, new)
    if table.partition_by:
        table.partition_by = (table.partition_by[0], called(table.partition_by[1]))
    table.pinned = {reader: tuple(sorted(called(columns))) for reader, columns in table.pinned.items()}
    for sequence, owner in schema.owners.items():
        if owner == (table.name, old):
            schema.owners[sequence] = (table.name, new)
    if old in table.new_columns:
        table.new_columns = set(called(tuple(table.new_columns)))
    for other, key in [*schema.referencing(table.name)]:
        places.put_constraint(schema, other, replace(key, referenced_columns=called(key.referenced_columns)))
    _tell_readers(schema, table.name, old, new)


def _recolumned(column: Column, old: str, new: str) -> Column:
    expression = tree.renamed(column.expression, old, new) if column.expression else None
    return replace(column, name=new if column.name == old else column.name, expression=expression)


def _reworded(
    constraint: Constraint, called: Callable[[tuple[str, ...]], tuple[str, ...]], old: str, new: str
) -> Constraint:
    return replace(
        constraint,
        columns=called(constraint.columns),
        expression=tree.renamed(constraint.expression, old, new),
        expressions=tuple(tree.renamed(one, old, new) for one in constraint.expressions),
    )
