"""What the database knows of a backfill: begun once, paused, resumed, aborted, done; and how far it is."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, LiteralString

import psycopg
from psycopg.types.json import Jsonb

from dbsec import __version__
from dbsec.backfill import ranges, session
from dbsec.backfill.job import Job, command
from dbsec.backfill.session import Limits
from dbsec.backfill.target import Target
from dbsec.errors import ApplyError, UsageError


class State(StrEnum):
    """Where a backfill is. Paused: its workers wait. Aborted: they have left; ``resume`` lets others go on there."""

    RUNNING = "running"
    PAUSED = "paused"
    ABORTED = "aborted"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Status:
    """How far a backfill is. ``visited`` rows were walked over, ``changed`` ones written; ``estimate`` is a guess.

    ``rate`` is rows a second over all workers that were seen within 30 s; ``eta_s`` is None where it says nothing.
    """

    name: str
    table: str
    state: State
    digest: str
    estimate: int
    visited: int
    changed: int
    batches: int
    ranges: int
    ranges_done: int
    workers: int
    rate: float
    started_at: datetime
    finished_at: datetime | None
    verified_at: datetime | None

    @property
    def eta_s(self) -> float | None:
        if self.state is not State.RUNNING or self.rate <= 0:
            return None
        return max(0, self.estimate - self.visited) / self.rate


_BEGIN: LiteralString = """
INSERT INTO dbsec.backfills (name, table_name, definition, digest, version) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (name) DO NOTHING RETURNING true
"""
_KNOWN: LiteralString = "SELECT state, digest, definition FROM dbsec.backfills WHERE name = %s"
_MOVE: LiteralString = """
UPDATE dbsec.backfills SET state = %s WHERE name = %s AND state = ANY (%s) RETURNING true
"""
_ALL_RANGES: LiteralString = "SELECT n FROM dbsec.backfill_ranges WHERE backfill = %s ORDER BY n FOR UPDATE"
_FINISH: LiteralString = """
UPDATE dbsec.backfills b SET state = 'done', finished_at = pg_catalog.clock_timestamp()
 WHERE b.name = %s AND b.state = 'running'
   AND NOT EXISTS (SELECT FROM dbsec.backfill_ranges r WHERE r.backfill = b.name AND r.done_at IS NULL)
"""
_STATUS: LiteralString = """
SELECT b.name, b.table_name, b.state, b.digest, b.estimate,
       coalesce(sum(r.visited), 0)::bigint, coalesce(sum(r.changed), 0)::bigint,
       coalesce(sum(r.batches), 0)::bigint, count(r.n), count(r.done_at),
       count(DISTINCT r.worker) FILTER (WHERE r.updated_at > pg_catalog.clock_timestamp() - interval '30 s'),
       coalesce(sum(r.rate) FILTER (
         WHERE r.done_at IS NULL AND r.updated_at > pg_catalog.clock_timestamp() - interval '30 s'), 0),
       b.started_at, b.finished_at, b.verified_at
  FROM dbsec.backfills b LEFT JOIN dbsec.backfill_ranges r ON r.backfill = b.name
 WHERE b.name = %(name)s OR %(name)s::text IS NULL
 GROUP BY b.name ORDER BY b.started_at, b.name
"""


def begin(connection: psycopg.Connection[Any], job: Job, target: Target, limits: Limits) -> State:
    """Enter a job with its ranges, or find the one of that name; several may do so at once.

    Errors: ``UsageError`` where the name belongs to a job with another definition; ``ApplyError`` for an aborted one.
    """
    with connection.transaction():
        session.settle(connection, job, limits, long=True)
        values = (job.name, job.table, Jsonb(job.definition), job.digest, __version__)
        if connection.execute(_BEGIN, values).fetchone():
            ranges.split(connection, job, target, limits)
    state, digest, definition = _known(connection, job.name)
    if digest != job.digest:
        other = [name for name, value in job.definition.items() if definition.get(name) != value]
        raise UsageError(
            f"backfill '{job.name}' was begun with another definition: {', '.join(other)}",
            hint=f"{command('forget', job.name, '--apply')} once it does not run, or give this one a name of its own",
        )
    if state is State.ABORTED:
        raise ApplyError(f"backfill '{job.name}' was aborted", hint=command("resume", job.name))
    return state


def finish(connection: psycopg.Connection[Any], name: str) -> State:
    """Call it done where no range is left; durable when this returns, and with it all batches before."""
    with session.writing(connection):
        connection.execute(_FINISH, (name,))
    return _known(connection, name)[0]


def status(connection: psycopg.Connection[Any], name: str) -> Status:
    """Tell how far a backfill is. Errors: ``UsageError`` for a name that is not known."""
    found = _statuses(connection, name)
    if not found:
        raise _unknown(connection, name)
    return found[0]


def statuses(connection: psycopg.Connection[Any]) -> list[Status]:
    """Tell of every backfill, the oldest first."""
    return _statuses(connection, None)


def pause(connection: psycopg.Connection[Any], name: str) -> None:
    """Let its workers wait. When this returns, no batch is under way, and none begins. Errors: ``UsageError``."""
    _move(connection, name, State.PAUSED, State.RUNNING)
    _quiesce(connection, name)


def resume(connection: psycopg.Connection[Any], name: str) -> None:
    """Let a paused one go on, or make an aborted one ready to be run again. Errors: ``UsageError``."""
    _move(connection, name, State.RUNNING, State.PAUSED, State.ABORTED)


def abort(connection: psycopg.Connection[Any], name: str) -> None:
    """Make its workers leave. When this returns, no batch is under way; what was done stays. Errors: ``UsageError``."""
    _move(connection, name, State.ABORTED, State.RUNNING, State.PAUSED)
    _quiesce(connection, name)


def forget(connection: psycopg.Connection[Any], name: str) -> None:
    """Delete what is known of one that no longer runs, so that the name is free. Errors: ``UsageError``."""
    gone = "DELETE FROM dbsec.backfills WHERE name = %s AND state <> 'running' RETURNING true"
    with session.writing(connection):
        found = connection.execute(gone, (name,)).fetchone()
    if found is None:
        state, _, _ = _known(connection, name)
        raise UsageError(f"backfill '{name}' is {state}", hint=command("abort", name))


def _move(connection: psycopg.Connection[Any], name: str, to: State, *origins: State) -> None:
    with session.writing(connection):
        moved = connection.execute(_MOVE, (to, name, list(origins))).fetchone()
    if moved is None:
        state, _, _ = _known(connection, name)
        if state is not to:
            raise UsageError(f"backfill '{name}' is {state}", hint=command("status", name))


def _quiesce(connection: psycopg.Connection[Any], name: str) -> None:
    # A worker claims its range before it reads the state: whoever got one before us has committed when we have them
    # all, and whoever gets one after us reads the new state.
    with session.writing(connection):
        connection.execute(_ALL_RANGES, (name,))


def _known(connection: psycopg.Connection[Any], name: str) -> tuple[State, str, dict[str, Any]]:
    row = connection.execute(_KNOWN, (name,)).fetchone()
    if row is None:
        raise _unknown(connection, name)
    state, digest, definition = row
    return State(state), digest, definition


def _statuses(connection: psycopg.Connection[Any], name: str | None) -> list[Status]:
    session.tame(connection)
    rows = connection.execute(_STATUS, {"name": name}).fetchall()
    return [Status(name, table, State(state), *rest) for name, table, state, *rest in rows]


def _unknown(connection: psycopg.Connection[Any], name: str) -> UsageError:
    names = [row[0] for row in connection.execute("SELECT name FROM dbsec.backfills ORDER BY started_at DESC")]
    close = difflib.get_close_matches(name, names, n=1) or names[:1]
    return UsageError(
        f"there is no backfill '{name}' in this database",
        hint=command("status", close[0]) if close else "dbsec backfill run FILE --dsn REF",
    )
