"""Ids that a value is bound to must be there before the row: the server's are fetched ahead, many in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, Connection, DefaultClause, Table, func, select
from sqlalchemy import Sequence as Counter

from dbsec.crypto.orm.errors import UnboundParameter
from dbsec.crypto.orm.told import EXPRESSION, Told


def complete(connection: Connection, told: Told, column: Column[Any]) -> None:
    """Give each row of an INSERT that has no value in this column the one that it would get later.

    From the column's own default, its sequence or identity (USAGE on the sequence is needed), or its server default.
    Errors: ``Unbound`` where none of them is declared.
    """
    values = told.values(column.key) if told.has(column.key) else [None] * len(told.rows)
    missing = [n for n, value in enumerate(values) if value is None]
    if not missing:
        return
    if any(value is EXPRESSION for value in values):
        raise UnboundParameter(f"'{column.name}' is computed by the server, and values are bound to it")
    for n, value in zip(missing, _next(connection, told.table, column, len(missing)), strict=True):
        values[n] = value
    told.put(column.key, values)


def _next(connection: Connection, table: Table, column: Column[Any], count: int) -> Sequence[Any]:
    default = column.default
    made_here: Any = getattr(default, "arg", None)
    if default is not None and default.is_callable:
        return [made_here(None) for _ in range(count)]
    if default is not None and default.is_scalar:
        return [made_here] * count
    made = _expression(connection, table, column)
    if made is None:
        raise UnboundParameter(
            f"'{table.fullname}.{column.name}' has no value, and values are bound to it",
            hint=f"set {column.name}, or give the column a default",
        )
    # as a column of its own, so that the server makes one for each row
    rows = select(made).select_from(func.generate_series(1, count))
    return connection.execute(rows).scalars().all()


def _expression(connection: Connection, table: Table, column: Column[Any]) -> Any:
    if isinstance(column.default, Counter):
        return column.default.next_value()
    if isinstance(column.server_default, DefaultClause):
        return column.server_default.arg
    if column is table.autoincrement_column or column.identity is not None:
        quote = connection.dialect.identifier_preparer
        schema = connection.schema_for_object(table)
        name = quote.quote(table.name)
        whole = f"{quote.quote_schema(schema)}.{name}" if schema else name
        return func.nextval(func.pg_get_serial_sequence(whole, column.name))
    return None
