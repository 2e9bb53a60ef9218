"""What CONCURRENTLY leaves behind when it fails: found before, mended, and looked for after."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from dbsec.migrations.interpret import operations_of
from dbsec.migrations.names import Name
from dbsec.migrations.operations import CreateIndex, DetachPartition, Drop, Operation, Reindex
from dbsec.migrations.runner import same_index
from dbsec.migrations.runner.blockers import looking
from dbsec.migrations.runner.classify import Classified
from dbsec.migrations.runner.failures import StatementFailed

# what REINDEX CONCURRENTLY makes beside the old index, and what it calls the old one before it drops it
_LEFTOVER = re.compile(r"_cc(?:new|old)\d*\Z")
_INDEXES: LiteralString = """
SELECT i.indexrelid::bigint, n.nspname, c.relname, i.indisvalid AND i.indisready, tn.nspname, t.relname, t.oid::bigint
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class t ON t.oid = i.indrelid JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
"""
_OF_TABLE: LiteralString = _INDEXES + " WHERE t.oid = %s"
_OF_NAME: LiteralString = _INDEXES + " WHERE c.oid = %s"
_INVALID: LiteralString = _INDEXES + " WHERE NOT (i.indisvalid AND i.indisready) AND n.nspname <> 'pg_toast'"
_PARTITION: LiteralString = """
SELECT i.inhrelid::bigint, i.inhdetachpending, n.nspname, c.relname
  FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE i.inhparent = %s
"""


@dataclass(frozen=True, slots=True)
class Index:
    """An index as the catalog has it; ``whole``: valid and ready."""

    oid: int
    name: Name
    whole: bool
    table: Name
    table_oid: int


@dataclass(slots=True)
class Care:
    """Looks after one statement. ``free`` waits until nobody else builds on a table, or raises.

    ``already``: what it would do is there. ``instead``: what to run in its place. ``repaired``: what was mended.
    """

    connection: psycopg.Connection[Any]
    one: Classified
    again: bool
    free: Callable[[int], None]
    already: bool = False
    instead: str = ""
    repaired: list[str] = field(default_factory=list)
    _broken: set[int] = field(default_factory=set)

    @property
    def operation(self) -> Operation | None:
        return next(iter(operations_of(self.one.statement)), None)

    def before(self) -> None:
        """Mend what an earlier run left, and see whether there is anything to do. Errors: ``StatementFailed``."""
        operation = self.operation
        if isinstance(operation, CreateIndex):
            self._before_create(operation)
        elif isinstance(operation, Reindex):
            self._drop(index for index in self._reached(operation) if _is_leftover(index))
        elif isinstance(operation, DetachPartition):
            self._before_detach(operation)
        elif isinstance(operation, Drop) and operation.kind == "index":
            self.already = self.again and not self._indexes(_OF_NAME, operation.name)
        self._broken = {index.oid for index in self._reached(operation) if not index.whole}

    def failed(self) -> str:
        """Drop what the failed statement left; returns the command that does so where that failed too."""
        operation = self.operation
        left = [index for index in self._reached(operation) if not index.whole and index.oid not in self._broken]
        if not isinstance(operation, (CreateIndex, Reindex)):
            return ""
        with suppress(psycopg.Error, StatementFailed):
            self._drop(left)
            return ""
        return "; ".join(f"DROP INDEX CONCURRENTLY {index.name}" for index in left)

    def after(self) -> None:
        """Assert that what was asked for is there and valid. Errors: ``StatementFailed``."""
        operation = self.operation
        if isinstance(operation, CreateIndex) and operation.name:
            found = self._named(operation)
            if found is None or not found.whole:
                raise self._error(
                    f"index '{operation.name}' is not valid", "55000", "run it again: it is dropped first"
                )
        bad = [str(index.name) for index in self._reached(operation) if not index.whole]
        if isinstance(operation, Reindex) and bad:
            hint = f"REINDEX INDEX CONCURRENTLY {bad[0]}"
            raise self._error(f"still invalid after it: {', '.join(bad)}", "55000", hint)

    def _before_create(self, wanted: CreateIndex) -> None:
        if not wanted.name:
            return
        found = self._named(wanted)
        if found is not None and not found.whole:
            self._drop([found])
            found = self._named(wanted)
        if found is None:
            return
        if not self._on_its_table(found, wanted):
            where = f"on '{found.table}'"
        elif same_index.same(self.connection, found.oid, found.table, self.one.statement.text):
            self.already = True
            return
        else:
            where = f"and is another one: {same_index.definition(self.connection, found.oid)}"
        hint = f"another name; or first: DROP INDEX CONCURRENTLY {found.name}"
        raise self._error(f"an index '{found.name}' is there already, {where}", "42P07", hint)

    def _before_detach(self, wanted: DetachPartition) -> None:
        child, parent = self._oid(wanted.partition), self._oid(wanted.table)
        with looking(self.connection) as cursor:
            rows = cursor.execute(_PARTITION, (parent,)).fetchall()
        own = next((row for row in rows if row[0] == child), None)
        if own is None:
            self.already = self.again
        elif own[1]:
            self.instead = _finalize(wanted.table, wanted.partition)
            self.repaired.append(str(wanted.partition))
        other = next((Name(row[2], row[3]) for row in rows if row[1] and row[0] != child), None)
        if other is not None:
            hint = _finalize(wanted.table, other)
            raise self._error(f"partition '{other}' is still being detached from '{wanted.table}'", "55000", hint)

    def _drop(self, indexes: Sequence[Index] | Any) -> None:
        for index in indexes:
            self.free(index.table_oid)
            if any(one.whole for one in self._indexes(_OF_NAME, index.name)):
                continue  # it was being built, and is done
            drop = sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(*_parts(index.name)))
            self.connection.execute(drop, prepare=False)
            self.repaired.append(str(index.name))

    def _reached(self, operation: Operation | None) -> list[Index]:
        """List the indexes that a statement builds or could have left."""
        if isinstance(operation, CreateIndex):
            return self._indexes(_OF_TABLE, operation.table)
        if not isinstance(operation, Reindex):
            return []
        if operation.name is None or operation.kind in ("schema", "database", "system"):
            place = operation.name.name if operation.kind == "schema" and operation.name else None
            return [one for one in self._indexes(_INVALID, None) if place in (None, one.name.schema)]
        if operation.kind == "table":
            return self._indexes(_OF_TABLE, operation.name)
        own = self._indexes(_OF_NAME, operation.name)
        beside = [one for index in own for one in self._indexes(_OF_TABLE, index.table)]
        return [*own, *(one for one in beside if _is_leftover(one) and one.name.name.startswith(own[0].name.name[:50]))]

    def _named(self, wanted: CreateIndex) -> Index | None:
        """Find an index of the name that is asked for, in the schema of its table."""
        query: LiteralString = """
        SELECT i.oid::bigint FROM pg_catalog.pg_class t JOIN pg_catalog.pg_class i ON i.relnamespace = t.relnamespace
         WHERE t.oid = %s AND i.relname = %s
        """
        table = self._oid(wanted.table)  # before the look, which has another search_path
        with looking(self.connection) as cursor:
            row = cursor.execute(query, (table, wanted.name)).fetchone()
        return next(iter(self._indexes(_OF_NAME, row[0])), None) if row else None

    def _on_its_table(self, found: Index, wanted: CreateIndex) -> bool:
        return any(one.oid == found.oid for one in self._indexes(_OF_TABLE, wanted.table))

    def _oid(self, name: Name | None) -> int | None:
        """Look a relation up as the file means it: by the session's search_path, where it bears no schema."""
        with self.connection.cursor(row_factory=tuple_row) as cursor:
            query: LiteralString = "SELECT pg_catalog.to_regclass(%s)::pg_catalog.oid::pg_catalog.int8"
            row = cursor.execute(query, (str(name),), prepare=False).fetchone()
        return row[0] if row else None

    def _indexes(self, query: LiteralString, of: Name | int | None) -> list[Index]:
        oid = self._oid(of) if isinstance(of, Name) else of
        with looking(self.connection) as cursor:
            rows = cursor.execute(query, None if query is _INVALID else (oid,)).fetchall()
        return [Index(row[0], Name(row[1], row[2]), bool(row[3]), Name(row[4], row[5]), row[6]) for row in rows]

    def _error(self, said: str, sqlstate: str, hint: str) -> StatementFailed:
        return StatementFailed(f"'{self.one.place}': {said}", sqlstate=sqlstate, place=self.one.place, hint=hint)


def _is_leftover(index: Index) -> bool:
    return not index.whole and _LEFTOVER.search(index.name.name) is not None


def _finalize(parent: Name, child: Name) -> str:
    made = sql.SQL("ALTER TABLE {} DETACH PARTITION {} FINALIZE")
    return made.format(sql.Identifier(*_parts(parent)), sql.Identifier(*_parts(child))).as_string(None)


def _parts(name: Name) -> tuple[str, ...]:
    return (name.schema, name.name) if name.schema else (name.name,)
