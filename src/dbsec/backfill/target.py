"""The table that a backfill walks, as the catalog has it: its key, the index that serves it, what hides rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from dbsec.backfill import assignments, session
from dbsec.backfill.job import Job
from dbsec.backfill.session import Limits
from dbsec.errors import ApplyError, UsageError

# What JSON writes and PostgreSQL reads back as the same value, under any DateStyle, IntervalStyle or float digits.
KEY_TYPES = frozenset(
    (
        *("int2", "int4", "int8", "oid", "numeric", "uuid", "text", "varchar", "bpchar", "citext", "bytea"),
        *("date", "timestamp", "timestamptz"),
    )
)
_RELATION: LiteralString = """
SELECT c.oid::bigint, c.relkind::text, pg_catalog.row_security_active(c.oid),
       EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhparent = c.oid), current_user::text
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s
"""
# PostgreSQL 18 marks a column NOT NULL before the rows are checked: only a valid constraint counts.
_COLUMNS: LiteralString = """
SELECT a.attname::text, pg_catalog.format_type(a.atttypid, -1), a.attgenerated <> '',
       a.attnotnull AND NOT EXISTS (
         SELECT FROM pg_catalog.pg_constraint o
          WHERE o.conrelid = a.attrelid AND o.contype = 'n' AND o.conkey = ARRAY[a.attnum] AND NOT o.convalidated),
       t.typcategory = 'A',
       (WITH RECURSIVE up(typname, typtype, typbasetype) AS (
          SELECT t.typname, t.typtype, t.typbasetype
          UNION ALL
          SELECT b.typname, b.typtype, b.typbasetype FROM pg_catalog.pg_type b JOIN up ON b.oid = up.typbasetype)
        SELECT CASE typtype WHEN 'e' THEN 'enum' ELSE typname::text END FROM up WHERE typbasetype = 0),
       (WITH RECURSIVE up(typtype, typbasetype, typnamespace) AS (
          SELECT t.typtype, t.typbasetype, t.typnamespace
          UNION ALL
          SELECT b.typtype, b.typbasetype, b.typnamespace FROM pg_catalog.pg_type b JOIN up ON b.oid = up.typbasetype)
        SELECT CASE typtype WHEN 'e' THEN 'pg_catalog' ELSE n.nspname::text END
          FROM up JOIN pg_catalog.pg_namespace n ON n.oid = typnamespace WHERE typbasetype = 0)
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
 WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""
# Unique indexes that < and > of the types walk in one direction: no other operator class, collation or mixed order.
_INDEXES: LiteralString = """
SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.n)
  FROM pg_catalog.pg_index i, ROWS FROM (pg_catalog.generate_series(0, i.indnkeyatts - 1)) AS k(n),
       pg_catalog.pg_attribute a, pg_catalog.pg_opclass c
 WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
   AND a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n] AND c.oid = i.indclass[k.n]
 GROUP BY i.indexrelid, i.indisprimary, i.indnkeyatts
HAVING pg_catalog.count(DISTINCT i.indoption[k.n] & 1) = 1
   AND pg_catalog.bool_and(i.indcollation[k.n] = a.attcollation)
   AND pg_catalog.bool_and(c.opcfamily IN (SELECT o.opcfamily FROM pg_catalog.pg_opclass o WHERE o.opcdefault))
 ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid
"""
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column; ``type`` is SQL's name of its type, schema included, without a length; ``base`` is below domains.

    ``operators`` is the schema of its < and >: where an extension's type is compared by those of pg_catalog, it is
    compared as text, in another order than that of its index.
    """

    name: str
    type: str
    base: str
    not_null: bool
    generated: bool
    array: bool
    operators: str = "pg_catalog"

    @property
    def identifier(self) -> sql.SQL:
        return named(self.name)

    @property
    def cast(self) -> sql.SQL:
        """``::type``; the catalog's own spelling, quoted where that is needed."""
        return sql.SQL("::" + self.spelled)

    @property
    def spelled(self) -> str:
        """The type, for a query with placeholders."""
        return self.type.replace("%", "%%")


@dataclass(frozen=True, slots=True)
class Target:
    """A table, the columns of its key in the order of the index, and all of its columns by name."""

    oid: int
    schema: str
    name: str
    key: tuple[Column, ...]
    columns: Mapping[str, Column]

    @property
    def identifier(self) -> sql.SQL:
        return named(self.schema, self.name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


def named(*names: str) -> sql.SQL:
    """Write a name for a query with placeholders, in which a % stands twice; run it with parameters, though none."""
    return sql.SQL(sql.Identifier(*names).as_string().replace("%", "%%"))


def find(connection: psycopg.Connection[Any], job: Job, limits: Limits | None = None) -> Target:
    """Look at the table of a job. Errors: ``UsageError`` for what cannot be walked, naming what can; ``ApplyError``
    where row-level security would hide rows from us."""
    with connection.transaction():
        # The catalog leaves out the schemas that the path has: types are spelled for the path of a batch.
        session.settle(connection, job, limits or Limits())
        return _found(connection, job)


def _found(connection: psycopg.Connection[Any], job: Job) -> Target:
    oid = _relation(connection, job)
    found = connection.execute(_COLUMNS, (oid,)).fetchall()
    columns = {
        name: Column(name, type_, base, not_null=not_null, generated=generated, array=array, operators=operators)
        for name, type_, generated, not_null, array, base, operators in found
    }
    for name in (*job.key_names, *job.column_names):
        if name not in columns:
            raise UsageError(f"'{job.table}' has no column '{name}'", hint=f"its columns are {', '.join(columns)}")
    indexes = [tuple(names) for (names,) in connection.execute(_INDEXES, (oid,))]
    usable = [names for names in indexes if all(_walkable(columns[name]) for name in names)]
    if job.key_names not in usable:
        raise _unusable(job, columns, indexes, usable)
    if moved := sorted(assignments.columns(job.set or "") & set(job.key_names)):
        raise UsageError(
            f"'set' writes '{moved[0]}', which is of the key: a row that moves is missed, or written twice",
            hint="walk by another unique key",
        )
    schema, name = job.qualified
    return Target(oid, schema, name, tuple(columns[name] for name in job.key_names), columns)


def _relation(connection: psycopg.Connection[Any], job: Job) -> int:
    row = connection.execute(_RELATION, job.qualified).fetchone()
    if row is None:
        raise UsageError(
            f"there is no table '{job.table}' in this database", hint="names fold to lower case: quote them"
        )
    oid, kind, hidden, inherited, user = row
    if kind not in ("r", "p"):
        raise UsageError(f"'{job.table}' is {_KINDS.get(kind, 'no table')}", hint="name the table behind it")
    if kind == "r" and inherited:
        raise UsageError(f"'{job.table}' has tables that inherit from it: its key is not unique over them")
    if hidden:
        raise ApplyError(
            f"row-level security hides rows of '{job.table}' from role '{user}': they would be left out silently",
            hint="run it as a role with BYPASSRLS, or as the owner where RLS is not forced",
        )
    return int(oid)


def _walkable(column: Column) -> bool:
    return column.not_null and (column.base in KEY_TYPES or column.base == "enum")


def _unusable(
    job: Job, columns: Mapping[str, Column], indexes: Sequence[tuple[str, ...]], usable: Sequence[tuple[str, ...]]
) -> UsageError:
    key = job.key_names
    shown = ", ".join(key)
    if usable:
        hint = " or ".join(f"key = [{', '.join(_toml(name) for name in names)}]" for names in usable)
    else:
        hint = "make one: NOT NULL by a validated CHECK, and CREATE UNIQUE INDEX CONCURRENTLY"
    odd = [name for name in key if columns[name].base not in KEY_TYPES and columns[name].base != "enum"]
    if key in indexes and odd:
        return UsageError(f"key '{shown}' of '{job.table}': type {columns[odd[0]].type} cannot be walked", hint=hint)
    if key in indexes:
        nullable = ", ".join(name for name in key if not columns[name].not_null)
        return UsageError(
            f"key '{shown}' of '{job.table}': '{nullable}' may be null, and such rows are on no page", hint=hint
        )
    return UsageError(f"key '{shown}' of '{job.table}' is not what a unique btree index has, in its order", hint=hint)


def _toml(name: str) -> str:
    return f'"{name}"' if name.islower() and name.isidentifier() else f"'\"{name}\"'"
