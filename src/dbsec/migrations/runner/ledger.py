"""``dbsec.migrations``: which file was applied when, by whom, and with which text; and what was decided about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, LiteralString

import psycopg

from dbsec import __version__
from dbsec.migrations.runner.files import FileKind, Migration
from dbsec.migrations.script import Phase
from dbsec.pg import own

CHECK_FAILED = "check failed"  # an event: all of it was run, and what must hold then does not
NEEDS = 2  # the version of schema dbsec that has these tables

_READ: LiteralString = """
SELECT number, name, kind, phase, checksum, state, run, started_at, finished_at, run_by, version, dropped,
       started_lsn::text
  FROM dbsec.migrations ORDER BY number
"""
_BEGIN: LiteralString = """
INSERT INTO dbsec.migrations AS m
       (number, name, kind, phase, checksum, state, run, started_at, started_lsn, run_by, version, dropped)
VALUES (%(number)s, %(name)s, %(kind)s, %(phase)s, %(checksum)s, 'applying', 1, pg_catalog.clock_timestamp(),
        CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE pg_catalog.pg_current_wal_lsn() END,
        session_user, %(version)s, %(dropped)s)
ON CONFLICT (number) DO UPDATE
   SET name = excluded.name, kind = excluded.kind, phase = excluded.phase, checksum = excluded.checksum,
       run_by = excluded.run_by, version = excluded.version, state = 'applying', finished_at = NULL,
       -- one that was interrupted goes on in its run, and keeps what it was before
       run = CASE WHEN m.state = 'applying' THEN m.run ELSE m.run + 1 END,
       started_at = CASE WHEN m.state = 'applying' THEN m.started_at ELSE excluded.started_at END,
       started_lsn = CASE WHEN m.state = 'applying' THEN m.started_lsn ELSE excluded.started_lsn END,
       dropped = CASE WHEN m.state = 'applying' THEN m.dropped ELSE excluded.dropped END
RETURNING run
"""
_MOVE: LiteralString = """
UPDATE dbsec.migrations SET state = %(state)s, run_by = session_user, version = %(version)s,
       finished_at = CASE WHEN %(state)s IN ('applied', 'reverted') THEN pg_catalog.clock_timestamp() END
 WHERE number = %(number)s
"""
_EVENT: LiteralString = """
INSERT INTO dbsec.migration_events (number, event, detail, version) VALUES (%s, %s, %s, %s)
"""
_EVENTS: LiteralString = """
SELECT at, number, event, detail, run_by FROM dbsec.migration_events
 WHERE %(number)s::bigint IS NULL OR number = %(number)s ORDER BY id
"""


class State(StrEnum):
    """Where a migration stands. APPLYING and REVERTING were interrupted where no runner holds the lock."""

    APPLYING = "applying"
    APPLIED = "applied"
    REVERTING = "reverting"
    REVERTED = "reverted"

    @property
    def interrupted(self) -> bool:
        return self in (State.APPLYING, State.REVERTING)


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something that a contract takes away, as it was before. ``definition`` is SQL, or "" where it is not known."""

    what: str
    name: str
    definition: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row. ``run`` counts the times that it was begun anew; ``started_lsn``: the WAL at that moment."""

    number: int
    name: str
    kind: FileKind
    phase: Phase
    checksum: str
    state: State
    run: int
    started_at: datetime
    finished_at: datetime | None
    run_by: str
    version: str
    dropped: tuple[Dropped, ...] = field(default=())
    started_lsn: str = ""

    @property
    def label(self) -> str:
        return f"{self.number:03}_{self.name}"

    def job(self, direction: str) -> str:
        """Name the journal of this run."""
        return f"migrations/{self.number:03}/{direction}/{self.run}"


@dataclass(frozen=True, slots=True)
class Event:
    """What was done or decided; ``detail`` holds the reason of who forced it."""

    at: datetime
    number: int | None
    event: str
    detail: str
    run_by: str


def read(connection: psycopg.Connection[Any]) -> dict[int, Entry]:
    """Read what was run, by number; nothing where schema dbsec is not installed yet."""
    if (own.installed(connection) or 0) < NEEDS:
        return {}
    return {row[0]: _entry(row) for row in connection.execute(_READ)}


def begin(connection: psycopg.Connection[Any], migration: Migration, dropped: Sequence[Dropped] = ()) -> Entry:
    """Record that a migration is being applied; one that was interrupted goes on in the same run."""
    texts = [{"what": one.what, "name": one.name, "definition": one.definition} for one in dropped]
    connection.execute(
        _BEGIN,
        {
            "number": migration.number,
            "name": migration.name,
            "kind": str(migration.kind),
            "phase": str(migration.phase),
            "checksum": migration.checksum,
            "version": __version__,
            "dropped": json.dumps(texts),
        },
    )
    return read(connection)[migration.number]


def move(connection: psycopg.Connection[Any], number: int, state: State) -> None:
    """Record where a migration stands now."""
    connection.execute(_MOVE, {"state": str(state), "number": number, "version": __version__})


def tell(connection: psycopg.Connection[Any], number: int | None, event: str, detail: str = "") -> None:
    """Record what was done or decided. ``detail`` must hold no value of a row."""
    connection.execute(_EVENT, [number, event, detail, __version__])


def events(connection: psycopg.Connection[Any], number: int | None = None) -> list[Event]:
    """Read what was done and decided, oldest first."""
    return [Event(*row) for row in connection.execute(_EVENTS, {"number": number})]


def _entry(row: Sequence[Any]) -> Entry:
    number, name, kind, phase, checksum, state, run, started, finished, run_by, version, dropped, lsn = row
    parts = tuple(Dropped(**one) for one in dropped)
    first = (number, name, FileKind(kind), Phase(phase), checksum, State(state), run)
    return Entry(*first, started, finished, run_by, version, parts, lsn or "")
