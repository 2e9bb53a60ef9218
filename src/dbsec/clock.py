"""The only clock: aware UTC for the record, monotonic for durations; tests pass another one."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the rest of dbsec knows of time."""

    def now(self) -> datetime:
        """Return the present moment, aware and in UTC."""

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""

    def sleep(self, seconds: float) -> None:
        """Wait; a test's clock only advances."""


class SystemClock:
    """The machine's clock."""

    monotonic = staticmethod(time.monotonic)  # itself: a cache asks it at each read
    sleep = staticmethod(time.sleep)

    def now(self) -> datetime:
        return datetime.now(UTC)


SYSTEM: Clock = SystemClock()


def rfc3339(moment: datetime) -> str:
    """Write a moment as ``2026-11-23T10:00:00.000000Z``: sortable as text, always microseconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
