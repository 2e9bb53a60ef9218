"""When a backfill waits for the service: one throttle for the workers of a process, on readings that they share."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from types import TracebackType

from dbsec.backfill.hours import Hours
from dbsec.backfill.judging import Verdict, judge
from dbsec.backfill.limits import ThrottleLimits
from dbsec.backfill.readings import Connect, Reader
from dbsec.backfill.signals import NotReadable
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import GaveUp

__all__ = ["NotReadable", "Overloaded", "Throttle", "ThrottleLimits"]

_STEP_S = 0.1  # how soon a pause, an abort or another worker's reading is seen
_TELL_EVERY_S = 10.0
_opening = lru_cache(maxsize=2)(Hours.opens)


class Overloaded(GaveUp):
    """A critical limit is passed: the backfill must stop, and somebody must look."""


class Throttle:
    """Holds workers back while the service or a replica suffers; one for all workers of a process.

    ``connect`` opens the throttle's own session (autocommit), which only reads; ``table`` is the one that is written,
    as SQL writes it with its schema. A context manager: leaving it closes the session.
    """

    def __init__(self, limits: ThrottleLimits, connect: Connect, clock: Clock = SYSTEM, *, table: str) -> None:
        self._limits = limits
        self._clock = clock
        self._reader = Reader(limits, connect, clock, table=table)
        self._lock = Lock()
        self._verdict = Verdict()
        self._read_at: float | None = None
        self._unread_since: float | None = None
        self._told_at = 0.0
        self._told_of: frozenset[str] = frozenset()

    def __enter__(self) -> Throttle:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the throttle's session; a later wait opens another one."""
        with self._lock:
            self._reader.close()

    def wait(self, told: Callable[[str], None], *, go_on: Callable[[], bool] = lambda: True) -> float:
        """Return once all signals are within their limits, or once ``go_on`` says False; gives the seconds waited.

        Called by every worker before each batch: a reading counts for ``read_every_ms``. ``told`` gets the reasons with
        their numbers, once for all workers. Errors: ``Overloaded`` above a critical limit; ``NotReadable`` for a
        signal that cannot be read, at once where privileges or a query are at fault, else after ``unread_s``.
        """
        begin = self._clock.monotonic()
        while go_on():
            verdict = self._now()
            if verdict is not None:
                self._heed(verdict, told)
                if not verdict.held:
                    break
            self._clock.sleep(_STEP_S)
        return self._clock.monotonic() - begin

    def _now(self) -> Verdict | None:
        """Return the verdict on a reading that still counts; None while another worker takes one."""
        if not self._lock.acquire(timeout=_STEP_S):
            return None
        try:
            shut = self._shut()
            if shut is not None:
                return shut
            now = self._clock.monotonic()
            if self._read_at is None or (now - self._read_at) * 1000 >= self._limits.read_every_ms:
                self._verdict = self._read()
                self._read_at = self._clock.monotonic()
            return self._verdict
        finally:
            self._lock.release()

    def _shut(self) -> Verdict | None:
        hours, moment = self._limits.hours, self._clock.now()
        if hours is None or hours.holds(moment):
            return None
        opens = _opening(hours, moment.replace(second=0, microsecond=0))
        text = f"outside of {hours}" + (f", which opens on {opens:%a %H:%M}" if opens else "")
        return Verdict(waits=(text,), held=frozenset({"hours"}))

    def _read(self) -> Verdict:
        held = self._verdict.held
        try:
            readings = self._reader.read()
        except NotReadable as exc:
            now = self._clock.monotonic()
            self._unread_since = now if self._unread_since is None else self._unread_since
            if exc.lasting or now - self._unread_since >= self._limits.unread_s:
                raise
            # What cannot be seen may be at its worst: wait.
            return Verdict(waits=(exc.message,), held=held | {"unread"})
        self._unread_since = None
        return judge(readings, self._limits, held)

    def _heed(self, verdict: Verdict, told: Callable[[str], None]) -> None:
        if verdict.critical:
            hint = "see to it; then: dbsec backfill resume NAME --dsn REF, and run it again"
            raise Overloaded(f"the backfill stops: {'; '.join(verdict.critical)}", hint=hint)
        now = self._clock.monotonic()
        with self._lock:
            news = verdict.held != self._told_of
            if not news and (not verdict.held or now - self._told_at < _TELL_EVERY_S):
                return
            self._told_of, self._told_at = verdict.held, now
        told(f"waiting: {'; '.join(verdict.waits)}" if verdict.held else "going on")
