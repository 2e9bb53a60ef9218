"""One batch: claim a range, write the rows of its next window and the cursor behind them, in one transaction.

A claim is the lock on the range's row, held for one batch. So a claim ends with its transaction, whatever ended that
(COMMIT, kill -9, a lost connection): it needs no timeout, no session (a pooler may stand between) and no fencing, since
the cursor is read under the lock that is held until the new one is committed. Between batches nobody holds anything,
no transaction is open, and vacuum is not held back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from dbsec.backfill import python_rows, session, statements, windows
from dbsec.backfill.state import State
from dbsec.backfill.statements import Work
from dbsec.backfill.windows import Page, Window
from dbsec.errors import ApplyError
from dbsec.journal import Edge, Observer

_CLAIM: LiteralString = """
SELECT n, cursor_key, high_key, batches FROM dbsec.backfill_ranges
 WHERE backfill = %(name)s AND done_at IS NULL
 ORDER BY (n = %(last)s) DESC, (n = %(avoid)s), (batches > 0), n -- one that nobody is at, rather than another's
 LIMIT 1 FOR UPDATE SKIP LOCKED
"""
_STATE: LiteralString = "SELECT state, digest FROM dbsec.backfills WHERE name = %s"
_RECORD: LiteralString = """
UPDATE dbsec.backfill_ranges
   SET cursor_key = %(cursor)s, visited = visited + %(visited)s, changed = changed + %(changed)s, batches = batches + 1,
       rate = %(rate)s, worker = %(worker)s, updated_at = clock_timestamp(),
       done_at = CASE WHEN %(finished)s THEN clock_timestamp() END
 WHERE backfill = %(name)s AND n = %(range)s
"""


@dataclass(slots=True)
class Seat:
    """Whose batch it is. ``last``: the range of the batch before, gone on with; ``avoid``: one with a locked row."""

    worker: str
    rate: float = 0.0
    last: int = -1
    avoid: int = -1


@dataclass(frozen=True, slots=True)
class Taken:
    """A committed batch; ``finished``: it was the last one of its range."""

    range: int
    visited: int
    changed: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """A range that is ours until the transaction ends."""

    range: int
    window: Window
    batches: int


def take(
    connection: psycopg.Connection[Any], work: Work, rows: int, seat: Seat, observer: Observer | None = None
) -> Taken | State:
    """Do a batch of at most ``rows`` rows. Returns the state where there is none to do: RUNNING says that every range
    left is claimed by others, or that none is left.

    Locks: the range's row, and the window's rows, in the order of the key. Errors: ``ApplyError`` for a job that was
    forgotten or begun anew; psycopg's, with everything rolled back.
    """
    with connection.transaction():
        session.settle(connection, work.job, work.limits)
        claim = _claim(connection, work, seat)
        state = _state(connection, work)  # after the claim: see state.pause
        if claim is None or state is not State.RUNNING:
            return state
        seat.last = claim.range
        step = f"range {claim.range} batch {claim.batches + 1}"
        _observe(observer, step, Edge.BEFORE)
        page = windows.page(connection, work.target, claim.window, rows)
        changed = _write(connection, work, page, step) if page.rows else 0
        _observe(observer, step, Edge.AFTER_EFFECT)
        taken = Taken(claim.range, page.rows, changed, finished=page.rows < rows)
        _record(connection, work, taken, page, seat)
        _observe(observer, f"{step} cursor", Edge.AFTER_EFFECT)
    _observe(observer, step, Edge.AFTER_RECORD)
    return taken


def _claim(connection: psycopg.Connection[Any], work: Work, seat: Seat) -> Claim | None:
    values = {"name": work.job.name, "last": seat.last, "avoid": seat.avoid}
    row = connection.execute(_CLAIM, values).fetchone()
    return Claim(row[0], Window(row[1], row[2]), row[3]) if row else None


def _state(connection: psycopg.Connection[Any], work: Work) -> State:
    row = connection.execute(_STATE, (work.job.name,)).fetchone()
    if row is None or row[1] != work.job.digest:
        raise ApplyError(f"backfill '{work.job.name}' was forgotten, or begun anew with another definition")
    return State(row[0])


def _write(connection: psycopg.Connection[Any], work: Work, page: Page, step: str) -> int:
    if work.function is not None:
        try:
            return python_rows.write(connection, work, page.window)
        except python_rows.Wrong as exc:
            name = work.job.definition["python"]
            raise ApplyError(
                f"backfill '{work.job.name}', {step}, {page.rows} keys: '{name}' failed: {exc}",
                hint="try the function on rows of your own; the batch was rolled back, those before it stay",
            ) from None  # its context may quote a row
    lock, update = statements.lock(work, page.window), statements.update(work, page.window)
    connection.execute(lock.text, lock.values)
    return int(connection.execute(update.text, update.values).rowcount)


def _record(connection: psycopg.Connection[Any], work: Work, taken: Taken, page: Page, seat: Seat) -> None:
    values = {
        "name": work.job.name,
        "range": taken.range,
        "cursor": list(page.window.high),
        "visited": taken.visited,
        "changed": taken.changed,
        "finished": taken.finished,
        "rate": seat.rate,
        "worker": seat.worker,
    }
    connection.execute(_RECORD, values)


def _observe(observer: Observer | None, step: str, edge: Edge) -> None:
    if observer is not None:
        observer(step, edge)
