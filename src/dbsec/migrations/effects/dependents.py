"""What hangs on a column or table: views, generated columns, foreign keys, and what PostgreSQL says of them."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.migrations import tree
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Constraint, ConstraintKind
from dbsec.migrations.schema.model import Schema, Table, View


def refusing_type_change(table: Table, column: str, schema: Schema) -> str:
    """Say why PostgreSQL refuses to change a column's type; empty where nothing that is known stands in the way."""
    if any(views_of_column(table, column, schema)):
        return "cannot alter type of a column used by a view or rule"
    if any(generated_from(table, column)):
        return "cannot alter type of a column used by a generated column"
    for (kind, name), columns in table.pinned.items():
        if column in columns and name in (table.policies if kind == "policy" else table.triggers):
            return f"cannot alter type of a column used in a {kind} definition"
    return ""


def generated_from(table: Table, column: str) -> Iterator[str]:
    """Yield the generated columns that are computed from a column."""
    for other in table.columns.values():
        if other.generated and column in tree.columns_in(other.expression):
            yield other.name


def views_of_column(table: Table, column: str, schema: Schema) -> Iterator[View]:
    """Yield the views that read a column directly."""
    wanted = {(str(table.name), column), (str(table.name), "*")}
    return (view for view in schema.views_on(table.name) if wanted & set(view.columns_read))


def views_above(name: Name, schema: Schema) -> Iterator[Name]:
    """Yield the views and materialized views that read a relation, and those that read these."""
    seen: set[Name] = set()
    todo = [name]
    while todo:
        here = todo.pop()
        for view in schema.views_on(here):
            if view.name not in seen:
                seen.add(view.name)
                todo.append(view.name)
                yield view.name


def keys_on(table: Table, columns: tuple[str, ...], schema: Schema) -> Iterator[tuple[Table, Constraint]]:
    """Yield the foreign keys of other tables (and of this one) that reference some of its columns."""
    for other, key in schema.referencing(table.name):
        if set(key.referenced_columns) & set(columns):
            yield other, key


def references_of(table: Table) -> Iterator[Name]:
    """Yield the tables that a table's foreign keys point to."""
    for key in table.of_kind(ConstraintKind.FOREIGN_KEY):
        if key.references is not None and key.references != table.name:
            yield key.references


def tables_with_type(name: Name, schema: Schema) -> Iterator[tuple[Table, str]]:
    """Yield the tables and columns of a type (or an array of it), or of a table's row type."""
    for table in schema.tables.values():
        for column in table.columns.values():
            if column.type.name == name.name and (name.schema is None or column.type.schema in (None, name.schema)):
                yield table, column.name


def has_key(table: Table, columns: tuple[str, ...]) -> bool:
    """Tell whether a foreign key may point to some columns: a primary key or whole unique index is on just these."""
    if not columns:
        return any(table.of_kind(ConstraintKind.PRIMARY_KEY))
    keys = [key.columns for key in table.of_kind(ConstraintKind.PRIMARY_KEY, ConstraintKind.UNIQUE)]
    whole = [i.columns for i in table.indexes.values() if i.unique and i.predicate is None and not i.expressions]
    return any(sorted(key) == sorted(columns) for key in (*keys, *whole))
