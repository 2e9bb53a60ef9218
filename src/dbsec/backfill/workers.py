"""Runs a backfill: begins it or joins it, lets workers take batches, and tells how far it is on all hosts."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from threading import Thread
from typing import Any

import psycopg

from dbsec.backfill import dead_rows, session, state, target, trouble
from dbsec.backfill.job import Job
from dbsec.backfill.session import Connect, Limits
from dbsec.backfill.state import State, Status
from dbsec.backfill.statements import Work
from dbsec.backfill.throttle import Overloaded
from dbsec.backfill.worker import Crew, Waits, Worker
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ConnectError, UsageError
from dbsec.journal import Observer
from dbsec.pg import own
from dbsec.progress import Progress, Silent

__all__ = ["Limits", "Outcome", "run"]

_VERSION = 3  # of schema dbsec: the step that brings our tables
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: ``state`` is DONE or ABORTED. Counts are this run's; ``status`` is of the whole job.

    ``hint`` says what to do about dead rows, or is empty.
    """

    state: State
    status: Status
    seconds: float
    throttled_s: float
    retries: int
    reconnects: int
    hint: str


def run(
    connect: Connect,
    job: Job,
    *,
    workers: int = 1,
    throttle: Waits | None = None,
    progress: Progress | None = None,
    limits: Limits | None = None,
    clock: Clock = SYSTEM,
    observer: Observer | None = None,
) -> Outcome:
    """Walk a table to its end, from where an earlier run stopped; several hosts may do so at once.

    Every row that is there for the whole walk is visited exactly once. Begin it when whatever writes rows from now on
    writes them right: rows that come later are left to that. Returns once the job is done, by whomever, or aborted;
    while it is paused, it waits. Locks: a batch's rows, for about ``batch_ms``. ``observer`` is told each edge of each
    batch. Errors: ``UsageError`` for a job that cannot be; ``ApplyError`` for what the server or a function refuses;
    ``GaveUp`` beyond the patience of ``limits``; ``NotReadable`` of the throttle, and ``Overloaded``, which pauses the
    job on all hosts: somebody must look first.
    """
    if workers < 1:
        raise UsageError(f"a backfill has a worker at least, not {workers}")
    progress, limits = progress or Silent(), limits or Limits()
    begun = clock.monotonic()
    function = job.function() if job.python is not None else None
    with closing(session.opened(connect)) as connection, _refusals(job):
        own.require(connection, _VERSION)
        found = target.find(connection, job)
        reached = state.begin(connection, job, found, limits)
        first, counts = state.status(connection, job.name), dead_rows.read(connection, found)
    crew = Crew(Work(job, found, limits, function), connect, throttle, progress, clock, observer, reached)
    try:
        _work(crew, workers)
    except Overloaded:
        _stop_all(connect, job)
        raise
    with closing(session.opened(connect)) as connection, _refusals(job):
        last = state.status(connection, job.name)
        _show(crew, last)
        hint = dead_rows.hint(connection, found, counts, last.changed - first.changed)
    seconds = clock.monotonic() - begun
    return Outcome(last.state, last, seconds, crew.throttled_s, crew.retries, crew.reconnects, hint)


def _stop_all(connect: Connect, job: Job) -> None:
    """Pause the job for every host: somebody must look first."""
    with suppress(UsageError, ConnectError, psycopg.Error), closing(session.opened(connect)) as connection:
        state.pause(connection, job.name)


def _work(crew: Crew, workers: int) -> None:
    name = f"{socket.gethostname()}:{os.getpid()}"
    crew_of = [Worker(crew, f"{name}:{n}") for n in range(1, workers + 1)]
    threads = [Thread(target=worker.run, name=f"backfill {n}", daemon=True) for n, worker in enumerate(crew_of, 1)]
    for thread in threads:
        thread.start()
    try:
        _watch(crew, threads)
    finally:
        crew.leave.set()  # Ctrl-C too: a batch under way is committed or rolled back, whole
        for thread in threads:
            thread.join()
    if crew.failures:
        raise crew.failures[0]


def _watch(crew: Crew, threads: list[Thread]) -> None:
    """Tell how far the job is, on all hosts, while the workers work; see a pause or an abort while they wait."""
    connection: psycopg.Connection[Any] | None = None
    try:
        while any(thread.is_alive() for thread in threads) and not crew.failures:
            try:
                connection = connection or session.opened(crew.connect)
                _look(crew, connection)
            except (psycopg.OperationalError, ConnectError):
                # The workers have their own patience with a server that is away: here nothing is lost.
                _close(connection)
                connection = None
            _join_some(threads)
    finally:
        _close(connection)


def _look(crew: Crew, connection: psycopg.Connection[Any]) -> None:
    seen = state.status(connection, crew.work.job.name)
    crew.state = seen.state
    _show(crew, seen)


def _show(crew: Crew, seen: Status) -> None:
    total = seen.visited if seen.state is State.DONE else max(seen.estimate, seen.visited + 1)
    crew.count(f"{seen.name}: rows, of an estimate", seen.visited, total)


@contextmanager
def _refusals(job: Job) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as exc:
        raise trouble.fatal(exc, job, "outside of a batch") from None  # what it quotes may be a row


def _join_some(threads: list[Thread]) -> None:
    for thread in threads:
        thread.join(_LOOK_EVERY_S / len(threads))


def _close(connection: psycopg.Connection[Any] | None) -> None:
    if connection is not None:
        connection.close()
