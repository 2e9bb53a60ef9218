"""Encrypted columns as tables have them: names in SQL, the key that a table is walked by, values counted by key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from dbsec.crypto.columns import EncryptedColumn
from dbsec.crypto.format import Algorithm, header_of
from dbsec.errors import UsageError

_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*\Z")
_PRIMARY: LiteralString = """
SELECT a.attname::text
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
       ROWS FROM (pg_catalog.generate_series(0, i.indnkeyatts - 1)) AS k(n), pg_catalog.pg_attribute a
 WHERE i.indisprimary AND n.nspname = %s AND c.relname = %s AND a.attrelid = c.oid AND a.attnum = i.indkey[k.n]
 ORDER BY k.n
"""
# rows that a policy hides are an error, not a lower count
_ALL_ROWS: LiteralString = "SELECT pg_catalog.set_config('row_security', 'off', true)"
_COUNT: LiteralString = """
SELECT {key}, pg_catalog.count(*) FROM {table} WHERE {column} IS NOT NULL GROUP BY 1
"""


def table_of(column: EncryptedColumn) -> tuple[str, str]:
    """Return schema and name, as the catalog has them."""
    schema, _, name = column.table.partition(".")
    return schema, name


def spelled(name: str) -> str:
    """Write a catalog's name as SQL takes it, quoted only where it must be."""
    return name if _PLAIN.match(name) else sql.Identifier(name).as_string()


def identifier(column: EncryptedColumn) -> sql.Identifier:
    """Write the table's name."""
    return sql.Identifier(*table_of(column))


def primary_key(connection: psycopg.Connection[Any], column: EncryptedColumn) -> tuple[str, ...]:
    """Return the columns of the table's primary key. Errors: ``UsageError`` where it has none."""
    found = tuple(name for (name,) in connection.execute(_PRIMARY, table_of(column)))
    if not found:
        raise UsageError(f"'{column.table}' is no table here, or has no primary key to be walked by")
    return found


def key_id(column: str) -> sql.Composed:
    """Write the key id in a value's header as bigint; of a shorter value, some number."""
    return sql.SQL("('x' || pg_catalog.encode(pg_catalog.substr({}, 3, 4), 'hex'))::bit(32)::bigint").format(
        sql.Identifier(column)
    )


def begins(column: str, algorithm: Algorithm) -> sql.Composed:
    """Write the condition that a value is one of ours, of this format version and algorithm."""
    first = sql.Literal(f"\\x{header_of(algorithm, 0)[:2].hex()}")
    return sql.SQL("pg_catalog.substr({}, 1, 2) = {}::pg_catalog.bytea").format(sql.Identifier(column), first)


def values_by_key(connection: psycopg.Connection[Any], column: EncryptedColumn) -> Mapping[int | None, int]:
    """Count the values of a column by the id of their key; None is what has none (inline, or not encrypted).

    Reads the whole table in one snapshot. Errors: psycopg's, also where row-level security would hide rows.
    """
    name = column.column
    ours = sql.SQL("CASE WHEN {} OR {} THEN {} END").format(
        begins(name, Algorithm.AES_256_GCM), begins(name, Algorithm.AES_256_SIV), key_id(name)
    )
    query = sql.SQL(_COUNT).format(key=ours, table=identifier(column), column=sql.Identifier(name))
    with connection.transaction():
        connection.execute(_ALL_ROWS)
        return dict(connection.execute(query).fetchall())
