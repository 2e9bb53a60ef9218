"""Proves what a backfill did: every row judged by key range, mismatches named by key and repaired, the result recorded.

What it proves: each row was right at the moment at which its range was looked at, rows that were inserted meanwhile
above the highest key apart. What it does not: that a writer will keep it so. Where every writer goes through a trigger
(or writes both), that holds on; a client that does not is found by the next verification, and cheaply, as far as
``where`` and the expressions see it, by ``remaining``, which the contract asks once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from dbsec.backfill import comparison, ranges, session, state, target, trouble, windows
from dbsec.backfill import repair as repairing
from dbsec.backfill.comparison import Comparison
from dbsec.backfill.job import Job, command
from dbsec.backfill.recompute import Recompute
from dbsec.backfill.session import Limits
from dbsec.backfill.statements import Work
from dbsec.backfill.verification import MODULUS, Judged, Tally, Verification
from dbsec.backfill.windows import Window
from dbsec.backfill.worker import Waits
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import UsageError
from dbsec.pg import own
from dbsec.progress import Progress, Silent

_VERSION = 4  # of schema dbsec: the step that brings the checksums
_KNOWN: LiteralString = """
SELECT n, low_key, high_key, rows, checksum FROM dbsec.backfill_checksums WHERE backfill = %s ORDER BY n
"""
_KEEP: LiteralString = """
INSERT INTO dbsec.backfill_checksums (backfill, n, low_key, high_key, rows, checksum) VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (backfill, n) DO UPDATE SET low_key = excluded.low_key, high_key = excluded.high_key,
  rows = excluded.rows, checksum = excluded.checksum,
  checked_at = pg_catalog.clock_timestamp()
"""
_RECORD: LiteralString = """
UPDATE dbsec.backfills SET verified_at = CASE WHEN %s THEN pg_catalog.clock_timestamp() END, verified_digest = %s,
       verification = %s
 WHERE name = %s AND digest = %s
"""
_VERIFIED: LiteralString = """
SELECT FROM dbsec.backfills WHERE name = %s AND digest = %s AND verified_digest = digest AND verified_at IS NOT NULL
"""


Look = Callable[[psycopg.Connection[Any], Window], Judged]


def verify(
    connection: psycopg.Connection[Any],
    job: Job,
    *,
    repair: bool = False,
    progress: Progress | None = None,
    throttle: Waits | None = None,
    limits: Limits | None = None,
    range_rows: int = 10_000,
    clock: Clock = SYSTEM,
) -> Verification:
    """Judge every row of a job that was begun; with ``repair``, write those that are wrong, and judge them again.

    A range is one short snapshot; no row is locked but by a repair. ``connection`` is in autocommit. The result is
    recorded, and a checksum a range. Errors: ``UsageError`` for a job that is not known or cannot be compared;
    ``ApplyError`` for what the server or a function refuses.
    """
    begun = clock.monotonic()
    progress, limits = progress or Silent(), limits or Limits()
    session.tame(connection)
    own.require(connection, _VERSION)
    known = state.status(connection, job.name)
    if known.digest != job.digest:
        raise UsageError(f"backfill '{job.name}' was begun with another definition", hint=command("status", job.name))
    work = _work(connection, job, limits)
    look = _looker(connection, work)
    tally = Tally(Verification(job.name, job.digest))
    for n, window, before in _ranges(connection, work, range_rows):
        if throttle is not None:
            throttle.wait(progress.step, go_on=lambda: True)
        judged, repaired = _judged(connection, work, look, window, mend=repair)
        now = (judged.rows + judged.outside, judged.checksum % MODULUS)
        tally.add(judged, changed=before is not None and before != now, repaired=repaired)
        with session.writing(connection):
            connection.execute(_KEEP, (job.name, n, window.low, window.high, *now))
        seen = tally.found.rows + tally.found.outside
        progress.count(f"{job.name}: rows verified", seen, max(seen, known.estimate))
    found = tally.total(clock.monotonic() - begun)
    if found.outside and not found.rows:
        raise UsageError(
            f"'where' shows none of {found.outside:,} rows to be what backfill '{job.name}' is about",
            hint='say which they are: scope = "..."',
        )
    with session.writing(connection):
        connection.execute(_RECORD, (found.clean, job.digest, Jsonb(found.to_json()), job.name, job.digest))
    return found


def verified(connection: psycopg.Connection[Any], name: str, digest: str) -> bool:
    """Tell whether the last verification of this very job found every row right: the gate of a contract.

    It tells of that moment: ask ``remaining`` too.
    """
    own.require(connection, _VERSION)
    return connection.execute(_VERIFIED, (name, digest)).fetchone() is not None


def remaining(connection: psycopg.Connection[Any], job: Job, *, limits: Limits | None = None) -> int:
    """Count the rows that need a job now, for the contract to ask once more; one look, which locks nothing.

    For a job in SQL: rows that are not as its expressions say; for one in python: rows that ``where`` still finds.
    Reads the whole table, unless an index serves ``where``.
    """
    work = _work(connection, job, limits or Limits())
    with _snapshot(connection, work):
        if job.set is not None:
            found = _comparison(connection, work)
            scope, off = found.scope, found.wrong
        else:
            scope, off = comparison.written(job.scope or "true"), comparison.written(job.where or "false")
        query = sql.SQL("SELECT count(*) FROM {} WHERE ({}) AND ({})").format(work.target.identifier, scope, off)
        row = connection.execute(query, ()).fetchone()  # with parameters, though none: a % is written twice
    return int(row[0]) if row else 0


def _work(connection: psycopg.Connection[Any], job: Job, limits: Limits) -> Work:
    return Work(job, target.find(connection, job), limits, job.function() if job.python is not None else None)


def _looker(connection: psycopg.Connection[Any], work: Work) -> Look:
    if work.function is not None:
        return Recompute(work, work.job.checker()).look
    with _snapshot(connection, work):
        found = _comparison(connection, work)
    if work.job.check is None:
        _must_repeat(connection, work, found)

    def look(connection: psycopg.Connection[Any], window: Window) -> Judged:
        query = comparison.query(found, window)
        row = connection.execute(query.text, query.values).fetchone()
        assert row is not None, "an aggregate gives one row"
        rows, outside, empty, checksum, *keys = row
        missed, null, wrong = ([tuple(key) for key in found or ()] for found in keys)
        return Judged(rows, outside, empty, int(checksum), missed=missed, null=null, wrong=wrong)

    return look


def _comparison(connection: psycopg.Connection[Any], work: Work) -> Comparison:
    check = work.job.check
    return comparison.of_set(connection, work.job, work.target, check if isinstance(check, str) else None)


def _must_repeat(connection: psycopg.Connection[Any], work: Work, found: Comparison) -> None:
    """Errors: ``UsageError`` where the expressions give other values in the next transaction: now(), random()."""
    seen = set()
    for _ in range(4):  # more than two: the service may write these very rows meanwhile
        with _snapshot(connection, work):
            row = connection.execute(comparison.sample(found), ()).fetchone()
        if row in seen:
            return
        seen.add(row)
    raise UsageError(
        "'set' gives other values each time: what it gave before cannot be compared",
        hint='give the job a check that is true of a right row: check = "column IS NOT NULL"',
    )


@contextmanager
def _snapshot(connection: psycopg.Connection[Any], work: Work) -> Iterator[None]:
    """Open a short transaction that sees one moment and cannot write."""
    try:
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            session.settle(connection, work.job, work.limits)
            yield
    except psycopg.Error as exc:
        raise trouble.fatal(exc, work.job, "verification") from None  # what it quotes may be a row


def _ranges(
    connection: psycopg.Connection[Any], work: Work, rows: int
) -> Iterator[tuple[int, Window, tuple[int, int] | None]]:
    """Yield the ranges of the verification before, with what it found, and then new ones up to the highest key.

    A range begins where the one before ended, whatever its record says: two verifications at once may have entered
    ranges of both, and what lies between them would be judged by none.
    """
    low, n = None, 0
    for n, low_, high, count, checksum in connection.execute(_KNOWN, (work.job.name,)).fetchall():
        yield n, Window(low, high), (count, int(checksum)) if low_ == low else None
        low = high
    with _snapshot(connection, work):
        highest = ranges._highest(connection, work.target)
    while highest is not None:
        with _snapshot(connection, work):
            page = windows.page(connection, work.target, Window(low, highest), rows)
        if not page.rows:
            return
        n += 1
        yield n, page.window, None
        low = page.window.high


def _judged(
    connection: psycopg.Connection[Any], work: Work, look: Look, window: Window, *, mend: bool
) -> tuple[Judged, int]:
    with _snapshot(connection, work):
        judged = look(connection, window)
    if not mend or not judged.keys:
        return judged, 0
    repairing.write(connection, work, window, judged.keys)
    with _snapshot(connection, work):
        after = look(connection, window)
    return after, len(set(judged.keys) - set(after.keys))
