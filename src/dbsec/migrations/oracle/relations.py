"""The relations of a database at one moment: files, counters and locks, before and after a statement."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from dbsec.migrations.effects.model import LockMode, Task, Work
from dbsec.migrations.names import Name
from dbsec.migrations.oracle.waiting import Locks

MANY_ROWS = 100
"""From so many rows on, writing them is counted as work; a test database has few more."""

_MOST_HOLDERS = 16

_QUERY: LiteralString = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text,
       coalesce(pg_relation_filenode(c.oid), 0)::bigint,
       pg_stat_get_xact_numscans(c.oid),
       pg_stat_get_xact_tuples_inserted(c.oid) + pg_stat_get_xact_tuples_updated(c.oid)
         + pg_stat_get_xact_tuples_deleted(c.oid),
       coalesce((SELECT inhparent FROM pg_inherits WHERE inhrelid = c.oid LIMIT 1), 0)::bigint,
       coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = c.oid), 0)::bigint
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast'
"""


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, view, index or sequence at one moment.

    ``file`` is its filenode; ``scans`` and ``written`` count since the session last told its counters; ``parent`` and
    ``indexes`` (the table of an index) are oids, 0 for none.
    """

    oid: int
    name: Name
    kind: str
    file: int
    scans: int
    written: int
    parent: int
    indexes: int

    @property
    def is_table(self) -> bool:
        return self.kind in "rpmfv"


def read(session: psycopg.Connection[Any]) -> dict[int, Relation]:
    """Read all relations but the catalog's, by oid, as the session's own transaction sees them.

    Sets client_min_messages to debug1: the script may have changed it.
    """
    session.execute("SET client_min_messages = debug1")
    rows = session.execute(_QUERY).fetchall()
    return {oid: Relation(oid, Name(_schema(schema), name), *rest) for oid, schema, name, *rest in rows}


def strongest(locks: Locks, relations: dict[int, Relation]) -> tuple[tuple[Name, LockMode], ...]:
    """Pair each table with the strongest of its locks; ACCESS SHARE, which everyone takes, is left out."""
    found: dict[Name, LockMode] = {}
    for oid, mode in locks:
        if oid in relations and relations[oid].is_table and mode > LockMode.ACCESS_SHARE:
            name = relations[oid].name
            found[name] = max(mode, found.get(name, mode))
    return tuple(sorted(found.items()))


def _schema(name: str) -> str:
    return "pg_temp" if name.startswith("pg_temp_") else name


def with_new_files(tables: dict[int, Relation], after: dict[int, Relation]) -> set[Name]:
    """Find the tables whose rows stand in another file now."""
    return {t.name for oid, t in tables.items() if t.kind in "rm" and oid in after and after[oid].file != t.file}


def written(tables: dict[int, Relation], after: dict[int, Relation]) -> set[Task]:
    """Find the tables that got, changed or lost many rows."""
    rows = {t.name: after[oid].written - t.written for oid, t in tables.items() if oid in after}
    return {Task(Work.WRITE, name, f"{count} rows") for name, count in rows.items() if count >= MANY_ROWS}


def scanned(
    tables: dict[int, Relation], after: dict[int, Relation], locks: dict[Name, LockMode], known: set[Name]
) -> set[Task]:
    """Find scans that no message tells: a counter went up on a table that the statement has locked."""
    return {
        Task(Work.SCAN, t.name, "its counter of scans went up")
        for oid, t in tables.items()
        if oid in after
        and after[oid].scans > t.scans
        and t.name not in known
        and locks.get(t.name, LockMode.ACCESS_SHARE) >= LockMode.SHARE_UPDATE_EXCLUSIVE
    }


def spoken_of(text: str, relations: dict[int, Relation]) -> list[tuple[Name, bool]]:
    """Find the tables that a statement names, those of indexes that it names, and their parents and partitions.

    Where it names none, all are meant, as far as there are not too many. True beside a name: a materialized view.
    """
    words = set(re.findall(r"[\w$]+", text.lower()))
    named = {oid for oid, seen in relations.items() if seen.name.name.lower() in words}
    named |= {seen.indexes for oid, seen in relations.items() if oid in named and seen.indexes}
    for _ in range(3):
        named |= {seen.parent for oid, seen in relations.items() if oid in named and seen.parent}
        named |= {oid for oid, seen in relations.items() if seen.parent in named and seen.kind in "rp"}
    every = {oid: (seen.name, seen.kind == "m") for oid, seen in relations.items() if seen.kind in "rpm"}
    chosen = [named_so for oid, named_so in every.items() if oid in named]
    return sorted(chosen or every.values())[:_MOST_HOLDERS]
