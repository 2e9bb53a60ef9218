"""What a row must be after a job in SQL, as conditions that the server judges; no value leaves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from dbsec.backfill import assignments, windows
from dbsec.backfill.assignments import Assignment
from dbsec.backfill.job import Job
from dbsec.backfill.target import Column, Target, named
from dbsec.backfill.windows import Part, Window
from dbsec.errors import UsageError

# Types of which equal values are the same value to a program. Others are compared as text, byte by byte: citext finds
# 'A' and 'a' equal, '1 mon' equals '30 days', json and point have no equality, and the operator of an extension's type
# may not be on the path.
_EQUALS = {
    *("bool", "int2", "int4", "int8", "oid", "float4", "float8", "numeric", "uuid", "bytea", "jsonb", "inet", "cidr"),
    *("date", "time", "timetz", "timestamp", "timestamptz"),
}
_TYPES: LiteralString = """
SELECT a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
"""
_FALSE, _TRUE, _OR = sql.SQL("false"), sql.SQL("true"), sql.SQL(" OR ")


@dataclass(frozen=True, slots=True)
class Expected:
    """A column that a job writes, what it must be, and its type with its length."""

    column: Column
    type: str
    expression: str | None

    @property
    def value(self) -> sql.Composed:
        """What the column would hold: rounded and padded as by the assignment."""
        return sql.SQL("({})::{}").format(written(self.expression or "NULL"), sql.SQL(self.type.replace("%", "%%")))

    @property
    def differs(self) -> sql.Composed:
        return differing(self.column, sql.Composed([self.column.identifier]), self.value)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The conditions on a row: what the job is about, what still needs it, what is not as it must be.

    ``null``: a column is NULL whose expression is not; ``empty``: an expression is NULL. ``hashed``: what the checksum
    is over, besides the key.
    """

    target: Target
    scope: sql.Composable
    needed: sql.Composable
    wrong: sql.Composable
    null: sql.Composable
    empty: sql.Composable
    hashed: tuple[sql.Composable, ...]


def of_set(connection: psycopg.Connection[Any], job: Job, target: Target, check: str | None) -> Comparison:
    """Say what a job in SQL promises, in a transaction with the job's settings.

    Errors: ``UsageError`` for a ``set`` that cannot be compared without ``check``.
    """
    parsed = assignments.parse(job.set or "")
    if check is None:
        _must_compare(parsed)
    wanted = _expected(connection, target, parsed)
    known = [one for one in wanted if one.expression is not None]
    null = [sql.SQL("{} IS NULL AND {} IS NOT NULL").format(one.column.identifier, one.value) for one in known]
    return Comparison(
        target,
        scope=_scope(job, target, wanted),
        needed=written(job.where) if job.where is not None else _FALSE,
        wrong=_OR.join(one.differs for one in known) if check is None else failed(check),
        null=_OR.join(null) if null else _FALSE,
        empty=_OR.join(sql.SQL("{} IS NULL").format(one.value) for one in known) if known else _FALSE,
        hashed=(*(one.column.identifier for one in wanted), *(one.value for one in known)),
    )


def _must_compare(found: Sequence[Assignment]) -> None:
    hint = "give the job a check that is true of a right row"
    if odd := [one.column for one in found if one.expression is None]:
        raise UsageError(f"'set' gives '{odd[0]}' no expression of its own to compare with", hint=hint)
    # n = n + 1 is never what it says, and a repair would count every row once more.
    if odd := [name for one in found for name in (other.column for other in found) if name in one.names]:
        raise UsageError(f"'set' reads '{odd[0]}', which it writes: what it was before is not known", hint=hint)


def failed(check: str) -> sql.Composed:
    """Write the condition that a row does not stand a check."""
    return sql.SQL("({}) IS NOT TRUE").format(written(check))


def differing(column: Column, one: sql.Composable, other: sql.Composable) -> sql.Composed:
    """Write the condition that two values of a column's type are not the same."""
    if column.base in _EQUALS and not column.array:
        return sql.SQL("{} IS DISTINCT FROM {}").format(one, other)
    text = sql.SQL('({})::text COLLATE "C" IS DISTINCT FROM ({})::text COLLATE "C"')
    return text.format(one, other)


def written(text: str) -> sql.SQL:
    """Take SQL of a job into a query with placeholders; a comment in its last line hides nothing of ours."""
    return sql.SQL(text.replace("%", "%%") + "\n")


def types(connection: psycopg.Connection[Any], target: Target) -> dict[str, str]:
    """Read the type of each column as SQL writes it, length included."""
    return dict(connection.execute(_TYPES, (target.oid,)).fetchall())


def query(comparison: Comparison, window: Window) -> Part:
    """Write the query that judges a window, in one look at it: counts, checksum, keys of what is wrong by sort."""
    inside = windows.inside(comparison.target, window)
    look = sql.SQL(
        "SELECT count(*) FILTER (WHERE dbsec_scope), count(*) FILTER (WHERE NOT dbsec_scope),"
        " count(*) FILTER (WHERE dbsec_scope AND dbsec_empty), coalesce(sum(dbsec_hash), 0),"
        " array_agg(dbsec_key) FILTER (WHERE dbsec_wrong AND dbsec_needed),"
        " array_agg(dbsec_key) FILTER (WHERE dbsec_wrong AND NOT dbsec_needed AND dbsec_null),"
        " array_agg(dbsec_key) FILTER (WHERE dbsec_wrong AND NOT dbsec_needed AND NOT dbsec_null)"
        " FROM (SELECT *, dbsec_scope AND dbsec_off AS dbsec_wrong FROM"
        " (SELECT {key} AS dbsec_key, ({scope}) IS TRUE AS dbsec_scope, ({wrong}) IS TRUE AS dbsec_off,"
        " ({needed}) IS TRUE AS dbsec_needed, ({null}) IS TRUE AS dbsec_null, ({empty}) IS TRUE AS dbsec_empty,"
        " pg_catalog.hashtextextended(ROW({hashed})::text, 0)::numeric AS dbsec_hash"
        " FROM {table} WHERE {inside}) AS seen) AS judged"
    ).format(
        key=windows.texts(comparison.target),
        scope=comparison.scope,
        wrong=comparison.wrong,
        needed=comparison.needed,
        null=comparison.null,
        empty=comparison.empty,
        hashed=sql.SQL(", ").join([windows.columns(comparison.target), *comparison.hashed]),
        table=comparison.target.identifier,
        inside=inside.text,
    )
    return Part(look, inside.values)


def sample(comparison: Comparison) -> sql.Composed:
    """Write the query for a hash of what the expressions give for some rows."""
    return sql.SQL(
        "SELECT sum(pg_catalog.hashtextextended(ROW({hashed})::text, 0)::numeric)"
        " FROM (SELECT * FROM {table} ORDER BY {order} LIMIT 10) AS {alias}"
    ).format(
        hashed=sql.SQL(", ").join([windows.columns(comparison.target), *comparison.hashed]),
        table=comparison.target.identifier,
        order=windows.columns(comparison.target),
        alias=named(comparison.target.name),
    )


def _expected(connection: psycopg.Connection[Any], target: Target, found: Sequence[Assignment]) -> list[Expected]:
    known = types(connection, target)
    for one in found:
        if one.column not in target.columns:
            raise UsageError(f"'set' writes '{one.column}', which is no column of '{target}'")
    return [Expected(target.columns[one.column], known[one.column], one.expression) for one in found]


def _scope(job: Job, target: Target, wanted: Sequence[Expected]) -> sql.Composable:
    """Write the condition that a job is about a row: that ``where`` held before its columns were ever written."""
    if job.scope is not None:
        return written(job.scope)
    if job.where is None:
        return _TRUE
    types_ = {one.column.name: one.type for one in wanted}
    names = [
        sql.SQL("NULL::{} AS {}").format(sql.SQL(types_[name].replace("%", "%%")), column.identifier)
        if name in types_
        else named(target.name, name)
        for name, column in target.columns.items()
    ]
    # The inner table shadows the outer one of its name: what `where` reads there are the columns of before.
    before = sql.SQL("SELECT ({}) FROM (SELECT {}) AS {}")
    # And a row that needs the job now is one of its rows, whatever it was before.
    return sql.SQL("(({}) IS TRUE OR ({}) IS TRUE)").format(
        before.format(written(job.where), sql.SQL(", ").join(names), named(target.name)), written(job.where)
    )
