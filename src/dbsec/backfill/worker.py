"""One worker: takes batches until none is left, and bears what the server does to it meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Any, Protocol

import psycopg

from dbsec import retry
from dbsec.backfill import batch, session, state, trouble
from dbsec.backfill.batch import Seat, Taken
from dbsec.backfill.job import command
from dbsec.backfill.session import Connect
from dbsec.backfill.state import State
from dbsec.backfill.statements import Work
from dbsec.backfill.trouble import Again
from dbsec.backfill.windows import Pace
from dbsec.clock import Clock
from dbsec.errors import ConnectError, reason
from dbsec.journal import Observer
from dbsec.progress import Progress

_IDLE_S = 0.2
_TELL_EVERY_S = 10.0


class Waits(Protocol):
    """What holds a worker back before a batch: ``dbsec.backfill.throttle.Throttle``."""

    def wait(self, told: Callable[[str], None], *, go_on: Callable[[], bool]) -> float:
        """Return once the next batch may begin, or ``go_on()`` is False; gives the seconds waited."""


@dataclass
class Crew:
    """What the workers of a process share: the work, what was seen of the job's state, and what is told."""

    work: Work
    connect: Connect
    throttle: Waits | None
    progress: Progress
    clock: Clock
    observer: Observer | None = None
    state: State = State.RUNNING
    retries: int = 0
    reconnects: int = 0
    throttled_s: float = 0.0
    leave: Event = field(default_factory=Event)
    failures: list[BaseException] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)
    _told: dict[str, float] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether the workers are to go home."""
        return self.leave.is_set() or self.state in (State.ABORTED, State.DONE)

    def tell(self, text: str, about: str = "") -> None:
        """Say something; of one matter (``about``) once in ten seconds."""
        now = self.clock.monotonic()
        with self._lock:
            if about and now - self._told.get(about, now - _TELL_EVERY_S) < _TELL_EVERY_S:
                return
            self._told[about] = now
            self.progress.step(text)

    def count(self, text: str, done: int, total: int) -> None:
        with self._lock:
            self.progress.count(text, done, total)

    def counted(self, *, retries: int = 0, reconnects: int = 0, throttled_s: float = 0.0) -> None:
        with self._lock:
            self.retries += retries
            self.reconnects += reconnects
            self.throttled_s += throttled_s

    def failed(self, exc: BaseException) -> None:
        with self._lock:
            self.failures.append(exc)
        self.leave.set()


class Worker:
    """Takes batches over one session of its own."""

    def __init__(self, crew: Crew, name: str) -> None:
        self._crew = crew
        self._work = crew.work
        self._seat = Seat(name)
        job = crew.work.job
        self._pace = Pace(job.batch_rows, job.bounds, job.batch_ms / 1000)
        self._connection: psycopg.Connection[Any] | None = None

    def run(self) -> None:
        """Work until the job is over; a failure of one is told to all."""
        try:
            while not self._crew.over:
                self._turn()
        except BaseException as exc:  # noqa: BLE001 whoever waits for this thread raises it
            self._crew.failed(exc)
        finally:
            self._close()

    def _turn(self) -> None:
        crew = self._crew
        begun = crew.clock.monotonic()
        if crew.throttle is not None:
            crew.counted(throttled_s=crew.throttle.wait(crew.tell, go_on=self._may_go_on))
            if not self._may_go_on():
                crew.leave.wait(_IDLE_S)
                return
        limits = self._work.limits
        what = f"a batch of backfill '{self._work.job.name}'"
        taken = retry.retry(self._attempt, on=(Again,), within_s=limits.give_up_s, what=what, clock=crew.clock)
        if isinstance(taken, Taken):
            seconds = crew.clock.monotonic() - begun
            if seconds > 0:
                rate = taken.visited / seconds
                self._seat.rate = rate if not self._seat.rate else 0.8 * self._seat.rate + 0.2 * rate
            return
        crew.state = taken
        if taken is State.PAUSED:
            crew.tell(f"paused; to go on: {command('resume', self._work.job.name)}", about="paused")
        if not crew.over:
            crew.leave.wait(_IDLE_S)

    def _may_go_on(self) -> bool:
        return not self._crew.leave.is_set() and self._crew.state is State.RUNNING

    def _attempt(self) -> Taken | State:
        """Do one batch, or see that there is none. Errors: ``Again``; ``ApplyError`` for what no retry mends."""
        crew = self._crew
        if crew.leave.is_set():
            return crew.state
        connection = self._connected()
        begun = crew.clock.monotonic()
        try:
            taken = batch.take(connection, self._work, self._pace.rows, self._seat, crew.observer)
            if taken is State.RUNNING:
                return state.finish(connection, self._work.job.name)
        except psycopg.Error as exc:
            raise self._judged(exc, connection) from None  # what it quotes may be a row
        if isinstance(taken, Taken):
            self._pace.took(crew.clock.monotonic() - begun, taken.visited)
            self._seat.avoid = -1
        return taken

    def _judged(self, exc: psycopg.Error, connection: psycopg.Connection[Any]) -> Exception:
        said = trouble.shown(exc)
        if trouble.lost(exc, connection):
            self._close()
            self._crew.counted(reconnects=1)
            self._crew.tell(f"the connection was lost: {said}", about="lost")
            return Again(said)
        if exc.sqlstate not in trouble.CONFLICTS:
            return trouble.fatal(exc, self._work.job, f"range {self._seat.last}, a batch of {self._pace.rows} rows")
        self._crew.counted(retries=1)
        self._pace.conflicted()
        self._seat.avoid, self._seat.last = self._seat.last, -1
        return Again(self._conflict(said, connection))

    def _conflict(self, said: str, connection: psycopg.Connection[Any]) -> str:
        try:
            who = trouble.blockers(connection, self._work.target)
        except psycopg.Error:
            who = ""
        text = f"{said}; open on the table: {who}" if who else said
        self._crew.tell(f"range {self._seat.avoid} is tried again: {text}", about="conflict")
        return text

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            crew, limits = self._crew, self._work.limits
            what = "the connection of a worker"
            self._connection = retry.retry(
                self._open,
                on=(ConnectError, psycopg.OperationalError),
                within_s=limits.reconnect_s,
                what=what,
                clock=crew.clock,
            )
        return self._connection

    def _open(self) -> psycopg.Connection[Any]:
        try:
            return session.opened(self._crew.connect)
        except (ConnectError, psycopg.OperationalError) as exc:
            if self._crew.leave.is_set():
                raise Again(reason(exc)) from exc
            raise

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
