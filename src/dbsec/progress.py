"""What long work says of itself: steps with a count, drawn by whoever is above (a terminal, a log, nothing)."""

from __future__ import annotations

from typing import Protocol, TextIO

from dbsec.clock import SYSTEM, Clock


class Progress(Protocol):
    """Where long work reports; an implementation must not raise."""

    def step(self, text: str) -> None:
        """Say that a step has begun or ended, in a few words."""

    def count(self, text: str, done: int, total: int) -> None:
        """Say how far a counted work is; called often."""


class Silent:
    """For callers that want nothing."""

    def step(self, text: str) -> None:
        return

    def count(self, text: str, done: int, total: int) -> None:
        return


class Lines:
    """Plain lines for a pipe or a log: every step, and a counted work once each two seconds and at its end.

    A counted work says how long it will still take at the pace that it had so far.
    """

    def __init__(self, stream: TextIO, clock: Clock = SYSTEM) -> None:
        self._stream = stream
        self._clock = clock
        self._start = clock.monotonic()
        self._last_count = self._start
        self._counting = ("", 0, self._start)

    def step(self, text: str) -> None:
        print(f"{self._clock.monotonic() - self._start:7.1f}s  {text}", file=self._stream, flush=True)

    def count(self, text: str, done: int, total: int) -> None:
        now = self._clock.monotonic()
        if text != self._counting[0]:
            self._counting = (text, done, now)
        if done >= total or now - self._last_count >= 2:
            self._last_count = now
            self.step(f"{text} {done:,}/{total:,}{self._left(done, total, now)}")

    def _left(self, done: int, total: int, now: float) -> str:
        _, first, since = self._counting
        if done <= first or done >= total or now <= since:
            return ""
        seconds = (total - done) * (now - since) / (done - first)
        return f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"
