"""The same DEKs under the newest version of their KEK: rows of the keyring change, and no row of data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg

from dbsec.crypto.life import keys, rows, wrapped
from dbsec.crypto.opening import Connect
from dbsec.crypto.store import KeyRow, KeyState
from dbsec.journal import Edge, Journal, Observer, PostgresStore, Step
from dbsec.kms import Description, KekState, Kms, KmsAdmin, KmsError, KmsUnavailable, rewrap_many, unwrap_many
from dbsec.progress import Progress, Silent

JOB = "crypto rewrap"
_AGAIN = "the same command goes on where this one stopped"
AdminOf = Callable[[str], KmsAdmin]


@dataclass(slots=True)
class Rewrapped:
    """What became of the rows: ``kept`` were under the newest version already; ``failed`` has id and reason."""

    rewrapped: int = 0
    kept: int = 0
    rotated: list[str] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Made:
    """A row, its new wrapping, and the KEK that is said to have made it."""

    row: KeyRow
    wrapped: bytes
    kek: Description


def stale(connection: psycopg.Connection[Any], kms: Kms, *, tenant: str | None = None) -> list[KeyRow]:
    """Return the rows that an older version of their KEK wraps, or an unusable KEK. Errors: ``KmsUnavailable``."""
    ask = keys.asking(kms)
    alive = (row for row in rows.every(connection, tenant=tenant) if row.state is not KeyState.DESTROYED)
    return [row for row in alive if _is_stale(row, _newest(ask, row))]


def rewrap(
    connect: Connect,
    kms: Kms,
    *,
    tenant: str | None = None,
    admin_of: AdminOf | None = None,
    batch: int = 500,
    progress: Progress | None = None,
    observer: Observer | None = None,
) -> Rewrapped:
    """Wrap every DEK under the newest version of its KEK; with ``admin_of``, add a version to each KEK first.

    Each new wrapping is unwrapped and held against its commitment before it takes the old one's place; a batch is one
    transaction. A row under the newest version is left alone, so a second run has nothing to do, and one after a kill
    does the rest. What a KEK refuses is in ``failed``, and the others go on. Locks: that of job "crypto rewrap".
    Errors: ``KmsUnavailable``: what was stored stays; ``JournalError`` where another session rewraps.
    """
    done, progress = Rewrapped(), progress or Silent()
    with closing(connect()) as connection, closing(connect()) as holder:
        connection.autocommit = holder.autocommit = True
        with PostgresStore(holder, JOB) as store:
            journal = Journal(store, observer=observer)
            if admin_of is not None:
                _rotate_keks(connection, kms, tenant, admin_of, journal, done, progress)
            try:
                _rewrap_all(connection, kms, tenant, batch, done, progress, observer)
            except KmsUnavailable as exc:
                raise KmsUnavailable(f"{exc}; {done.rewrapped} keys were rewrapped before", hint=_AGAIN) from exc
            store.forget()
    return done


def _rotate_keks(
    connection: psycopg.Connection[Any],
    kms: Kms,
    tenant: str | None,
    admin_of: AdminOf,
    journal: Journal,
    done: Rewrapped,
    progress: Progress,
) -> None:
    """Add a version to each KEK once, however often this is killed: the version before is on record."""
    seen: set[str] = set()
    ask = keys.asking(kms)
    for row in rows.every(connection, tenant=tenant):
        if row.state is KeyState.DESTROYED or row.tenant in seen:
            continue
        seen.add(row.tenant)
        told = _newest(ask, row)
        if isinstance(told, str) or told.kek in done.rotated:
            continue
        before = journal.run(f"version of {told.kek}", lambda told=told: told.version)  # type: ignore[misc]
        with journal.step(f"rotate {told.kek}") as step:
            if step.done or _happened(step, told, before):
                progress.step(f"{told.kek} was rotated by the run that was broken off")
            else:
                admin_of(row.tenant).rotate()
        done.rotated.append(told.kek)


def _happened(step: Step, told: Description, before: str) -> bool:
    return step.interrupted and told.version != before


def _rewrap_all(
    connection: psycopg.Connection[Any],
    kms: Kms,
    tenant: str | None,
    batch: int,
    done: Rewrapped,
    progress: Progress,
    observer: Observer | None,
) -> None:
    ask, after = keys.asking(kms), 0
    while some := rows.read(connection, tenant=tenant, after=after, limit=batch):
        after = some[-1].id
        alive = [row for row in some if row.state is not KeyState.DESTROYED]
        newest = {row.id: _newest(ask, row) for row in alive}
        wanted = [(row, kek) for row in alive if not isinstance(kek := newest[row.id], str) and _is_stale(row, kek)]
        unusable = [(row.id, why) for row in alive if isinstance(why := newest[row.id], str)]
        done.failed += unusable
        done.kept += len(alive) - len(wanted) - len(unusable)
        step = f"keys up to {after}"
        _observe(observer, step, Edge.BEFORE)
        made = _made(kms, wanted, done)
        _observe(observer, f"{step} wrapped", Edge.AFTER_EFFECT)
        done.rewrapped += rows.keep_rewrapped(
            connection, [(one.row, one.wrapped, one.kek.kek, one.kek.version) for one in made]
        )
        _observe(observer, step, Edge.AFTER_RECORD)
        progress.count("keys rewrapped", done.rewrapped, done.rewrapped + len(done.failed))


def _made(kms: Kms, wanted: Sequence[tuple[KeyRow, Description]], done: Rewrapped) -> list[_Made]:
    """Rewrap and prove. Errors: ``KmsUnavailable``; what the KMS refuses is kept in ``done.failed``."""
    answers = rewrap_many(kms, [(row.wrapped, row.aad) for row, _ in wanted])
    made = []
    for (row, kek), answer in zip(wanted, answers, strict=True):
        if isinstance(answer, KmsError):
            _failed(row, answer, done)
        else:
            made.append(_Made(row, answer, kek))
    opened = unwrap_many(kms, [(one.wrapped, one.row.aad) for one in made])
    proven = []
    for one, dek in zip(made, opened, strict=True):
        if isinstance(dek, KmsError):
            _failed(one.row, dek, done)
        elif wrapped.is_kept(one.row, dek):
            proven.append(one)
        else:
            done.failed.append((one.row.id, "the new wrapping does not hold the DEK that was committed to"))
    return proven


def _failed(row: KeyRow, why: KmsError, done: Rewrapped) -> None:
    if isinstance(why, KmsUnavailable):
        raise why
    done.failed.append((row.id, str(why)))


def _newest(ask: keys.Ask, row: KeyRow) -> Description | str:
    """Return what the KMS says of the KEK, or why it cannot be used. Errors: ``KmsUnavailable``."""
    kek = ask(row)
    assert kek is not None, "a KMS is given"
    if kek.away:
        raise KmsUnavailable(f"the KEK of key {row.id} cannot be asked: {kek.error}", hint=_AGAIN)
    if kek.told is None:
        return kek.error
    return kek.told if kek.told.state is KekState.ENABLED else f"'{kek.told.kek}' is {kek.told.state}"


def _is_stale(row: KeyRow, newest: Description | str) -> bool:
    return isinstance(newest, str) or (row.kek, row.kek_version) != (newest.kek, newest.version)


def _observe(observer: Observer | None, step: str, edge: Edge) -> None:
    if observer is not None:
        observer(step, edge)
