"""What is in a database, as far as two copies of it can be told apart: counts, hashes, shapes, sequences."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from dbsec.errors import UsageError

# What the text of a value depends on beside the value: pinned, so that two servers write the same one alike.
_PINNED: Final[Mapping[str, str]] = {
    "search_path": "pg_catalog",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "lc_monetary": "C",
    "row_security": "off",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
_PIN: LiteralString = "SELECT set_config(name, value, true) FROM unnest(%s::text[], %s::text[]) AS pin (name, value)"
_TABLES: LiteralString = """
SELECT n.nspname, c.relname, c.relpersistence = 'u'
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence IN ('p', 'u')
   AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%%'
 ORDER BY 1, 2
"""
_COLUMNS: LiteralString = """
SELECT coalesce(string_agg(format('%%s %%I %%s', a.attnum, a.attname, format_type(a.atttypid, a.atttypmod)), ','
                           ORDER BY a.attnum), '')
  FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = format('%%I.%%I', %s::text, %s::text)::regclass AND a.attnum > 0 AND NOT a.attisdropped
"""
# Two sums of 64-bit hashes with seeds of their own: no sorting, no order, and a row that is there twice counts twice.
_CONTENT: LiteralString = """
SELECT count(*), coalesce(sum(hashtextextended(line, 0)), 0), coalesce(sum(hashtextextended(line, 7266)), 0),
       coalesce(sum(octet_length(line)), 0)
  FROM (SELECT (t.*)::text COLLATE "C" AS line FROM ONLY {} AS t) AS lines
"""
_SEQUENCES: LiteralString = """
SELECT schemaname, sequencename, last_value FROM pg_catalog.pg_sequences
 WHERE last_value IS NOT NULL AND increment_by > 0 AND NOT cycle
"""


@dataclass(frozen=True, slots=True, order=True)
class Table:
    """A table by schema and name."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class Content:
    """What one table holds: 128 bits that do not depend on the order of rows, and those of its columns and types."""

    rows: int
    digest: str
    columns: str
    text_bytes: int


def pin(session: psycopg.Connection[Any]) -> None:
    """Fix for this transaction what the text of values depends on; row security refuses, it does not filter.

    Source: PostgreSQL, "Row Security Policies": with ``row_security`` off a query that a policy would cut fails.
    """
    session.execute(_PIN, [list(_PINNED), list(_PINNED.values())])


def tables(session: psycopg.Connection[Any], wanted: Sequence[str] = ()) -> tuple[list[Table], list[Table]]:
    """Return the tables to look at, and the unlogged ones, which no recovery keeps.

    ``wanted`` names tables (``app.users``) or whole schemas (``app``); without it, all that users have made.
    Partitions count each by itself. Errors: ``UsageError`` for a name of nothing.
    """
    rows = [(Table(schema, name), bool(unlogged)) for schema, name, unlogged in session.execute(_TABLES)]
    for name in wanted:
        if not any(name in (str(table), table.schema) for table, _ in rows):
            raise UsageError(f"no table and no schema is named '{name}'", hint="--tables app.users,app.orders")
    chosen = [(table, un) for table, un in rows if not wanted or str(table) in wanted or table.schema in wanted]
    return [table for table, unlogged in chosen if not unlogged], [table for table, unlogged in chosen if unlogged]


def contents(session: psycopg.Connection[Any], of: Iterable[Table]) -> dict[str, Content]:
    """Count and hash every row of these tables in the server, under the snapshot of the session's transaction.

    Shape: ``rows``; ``digest`` is two sums, modulo 2^64, of hashtextextended over the text of each row. The text of a
    row tells NULL from '' and quotes what separates columns. One core, no sorting, no memory. Locks: ACCESS SHARE.
    Errors: ``psycopg.Error``, also where row security would hide rows from this role.
    """
    pin(session)
    found = {}
    for table in of:
        row = session.execute(sql.SQL(_CONTENT).format(table.identifier)).fetchone()
        shape = session.execute(_COLUMNS, [table.schema, table.name]).fetchone()
        assert row is not None
        assert shape is not None
        digest = "".join(f"{int(part) % (1 << 64):016x}" for part in row[1:3])
        columns = hashlib.sha256(shape[0].encode()).hexdigest()[:16]
        found[str(table)] = Content(int(row[0]), digest, columns, int(row[3]))
    return found


def sequences(session: psycopg.Connection[Any]) -> dict[str, int]:
    """Return where the ascending sequences stand that this role may read.

    A sequence is no part of a transaction, and recovery moves it on by up to 32 values: it can only be "not behind".
    """
    return {f"{schema}.{name}": int(value) for schema, name, value in session.execute(_SEQUENCES)}
