"""Rows of a column under the key that encrypts now, or encrypted for the first time, while the service goes on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from dbsec import backfill
from dbsec.backfill import Job, State
from dbsec.backfill import verify as proving
from dbsec.backfill.verification import Verification
from dbsec.backfill.worker import Waits
from dbsec.crypto.columns import EncryptedColumn, Mode
from dbsec.crypto.envelope import Envelope
from dbsec.crypto.errors import ModeRefused
from dbsec.crypto.life import rows, tables
from dbsec.crypto.life.rewriting import ALGORITHMS, Rewriting, Source
from dbsec.crypto.opening import Connect
from dbsec.crypto.store import KeyState, Purpose
from dbsec.errors import ApplyError, UsageError
from dbsec.journal import Observer
from dbsec.kms import KmsUnavailable
from dbsec.pg import own
from dbsec.progress import Progress, Silent

_MOST_PASSES = 5
_AGAIN = "the same command goes on where this one stopped"
_NOT_NULL = "{} IS NOT NULL"
# of this database's own keyring: its text stays the same over all rotations
_IN_KEYRING = "EXISTS (SELECT FROM dbsec.keyring AS k WHERE k.id = {} AND k.purpose = 'data' AND k.state = ANY ({}))"


@dataclass(slots=True)
class Reencrypted:
    """What became of a column. ``remaining`` rows still need it; ``left`` are keys of rows that cannot be read."""

    job: str
    visited: int = 0
    changed: int = 0
    passes: int = 0
    remaining: int = 0
    seconds: float = 0.0
    left: dict[tuple[str, ...], str] = field(default_factory=dict)
    verified: Verification | None = None
    state: State = State.DONE

    @property
    def clean(self) -> bool:
        """Tell whether nothing is left to do and what was done is proven as far as asked."""
        return not self.remaining and not self.left and (self.verified is None or self.verified.clean)


@dataclass(frozen=True, slots=True)
class Work:
    """A job over a column, with the functions that it calls."""

    job: Job
    rewriting: Rewriting


def plan(
    connection: psycopg.Connection[Any],
    envelope: Envelope,
    column: EncryptedColumn,
    *,
    source: Source | None = None,
    keyring: psycopg.Connection[Any] | None = None,
    leave: bool = False,
    batch_rows: int = 1000,
) -> Work:
    """Make the job. ``source`` is where the values are now, if not encrypted in the column itself; ``keyring`` a
    session of the keyring's database, where that is another one. Errors: ``UsageError``, ``ModeRefused``."""
    source = source or Source(column.column)
    if source.column in (column.index[0] if column.index else "", *column.row, column.tenant):
        raise UsageError(f"'{source.column}' is no column of values", hint="--from the column that has them now")
    key = tables.primary_key(connection, column)
    rewriting = Rewriting(envelope, column, source, key, leave=leave)
    if rewriting.in_place and column.mode is Mode.DETERMINISTIC:
        raise ModeRefused(
            f"'{column.field}' is deterministic: while both keys live in one column, equal values would differ",
            hint="a column of the next generation beside it, filled with --from, then switch the reads",
        )
    where, scope = _conditions(rewriting, keyring)
    read = [*column.row, source.column, column.column, *([column.tenant] if column.tenant else [])]
    read += [column.index[0]] if column.index else []
    job = Job(
        name=_name(rewriting),
        table=".".join(map(tables.spelled, tables.table_of(column))),
        key=tuple(map(tables.spelled, key)),
        python=rewriting.encrypted,
        columns=tuple(dict.fromkeys(tables.spelled(name) for name in read if name not in key)),
        where=where.as_string(connection),
        scope=scope.as_string(connection),
        check=rewriting.agree,
        batch_rows=batch_rows,
        batch_rows_min=1,
    )
    return Work(job, rewriting)


def remaining(connection: psycopg.Connection[Any], work: Work) -> int:
    """Count the rows that need it now: one look over the table, which locks nothing."""
    return proving.remaining(connection, work.job)


def run(
    connect: Connect,
    work: Work,
    *,
    workers: int = 1,
    throttle: Waits | None = None,
    verify: bool = False,
    progress: Progress | None = None,
    limits: backfill.Limits | None = None,
    observer: Observer | None = None,
) -> Reencrypted:
    """Walk the table until no row needs it, at most five times: a writer may use the old key until its TTL ends.

    A row that is written meanwhile is read again under its lock, so nothing is lost. It may be killed at any time, and
    goes on at the batch. Errors: ``KmsUnavailable``: what was committed stays; ``Unreadable``; those of
    ``backfill.run``.
    """
    progress, done = progress or Silent(), Reencrypted(work.job.name)
    _clear(connect, work)
    while True:
        passed = _pass(connect, work, workers, throttle, progress, limits, observer)
        done.state = passed.state
        done.passes += 1
        done.visited, done.changed = done.visited + passed.status.visited, done.changed + passed.status.changed
        done.seconds += passed.seconds
        with closing(connect()) as connection:
            connection.autocommit = True
            done.remaining = proving.remaining(connection, work.job)
            enough = not done.remaining or done.passes == _MOST_PASSES or passed.state is not State.DONE
            if enough or not passed.status.changed:
                break
            backfill.forget(connection, work.job.name)
        progress.step(f"{done.remaining:,} rows were written under an older key meanwhile: once more")
    done.left = dict(work.rewriting.left)
    if verify and done.state is State.DONE:
        done.verified = _verified(connect, work, progress, throttle)
    return done


def _pass(
    connect: Connect,
    work: Work,
    workers: int,
    throttle: Waits | None,
    progress: Progress,
    limits: backfill.Limits | None,
    observer: Observer | None,
) -> backfill.Outcome:
    try:
        return backfill.run(
            connect,
            work.job,
            workers=workers,
            throttle=throttle,
            progress=progress,
            limits=limits,
            observer=observer,
        )
    except KmsUnavailable as exc:
        raise KmsUnavailable(f"{exc}; the rows that were committed stay", hint=_AGAIN) from exc


def _clear(connect: Connect, work: Work) -> None:
    """Free the name of a walk that ended: this one begins anew. One that was broken off is gone on with."""
    with closing(connect()) as connection:
        connection.autocommit = True
        own.require(connection, rows.VERSION)
        known = {one.name: one for one in backfill.statuses(connection)}.get(work.job.name)
        if known is None:
            return
        if known.state is State.ABORTED:
            raise ApplyError(f"'{known.name}' was aborted", hint=f"dbsec backfill resume '{known.name}' --dsn REF")
        if known.digest != work.job.digest and known.state is not State.DONE:
            backfill.abort(connection, known.name)
        if known.digest != work.job.digest or known.state is State.DONE:
            backfill.forget(connection, known.name)


def _verified(connect: Connect, work: Work, progress: Progress, throttle: Waits | None) -> Verification:
    with closing(connect()) as connection:
        connection.autocommit = True
        return proving.verify(connection, work.job, progress=progress, throttle=throttle)


def _conditions(rewriting: Rewriting, keyring: psycopg.Connection[Any] | None) -> tuple[sql.Composed, sql.Composed]:
    """Return the rows that need it, and those that it is about."""
    column, source = rewriting.column, rewriting.source
    there = sql.SQL(_NOT_NULL).format(sql.Identifier(source.column))
    ours = tables.begins(column.column, ALGORITHMS[column.mode])
    if not rewriting.in_place:
        wanting = [sql.SQL("{} IS NULL").format(sql.Identifier(name)) for name in _filled(column)]
        return sql.SQL("{} AND ({})").format(there, sql.SQL(" OR ").join(wanting)), there
    if column.mode is Mode.INLINE:
        return sql.SQL("{} AND NOT ({})").format(there, ours), there
    # what was shredded is read by nobody: it is left, and not counted
    alive = sql.SQL("{} AND NOT ({} AND {})").format(there, ours, _keys(column, keyring, KeyState.DESTROYED))
    current = _keys(column, keyring, KeyState.ACTIVE)
    return sql.SQL("{} AND NOT ({} AND {})").format(alive, ours, current), alive


def _keys(column: EncryptedColumn, keyring: psycopg.Connection[Any] | None, *states: KeyState) -> sql.Composed:
    """Write the condition that the key of a value is in one of these states."""
    number = tables.key_id(column.column)
    if keyring is None:
        return sql.SQL(_IN_KEYRING).format(number, sql.Literal([str(state) for state in states]))
    found = [
        row.id
        for row in rows.every(keyring, context=column.field.context)
        if row.state in states and row.purpose is Purpose.DATA
    ]
    return sql.SQL("{} = ANY ({}::bigint[])").format(number, sql.Literal(found))


def _filled(column: EncryptedColumn) -> Sequence[str]:
    return [column.column, *([column.index[0]] if column.index else [])]


def _name(rewriting: Rewriting) -> str:
    column = rewriting.column
    origin = "" if rewriting.in_place and rewriting.source.read is None else f" from {rewriting.source.column}"
    return f"crypto reencrypt {column.table}.{column.column}{origin}"
