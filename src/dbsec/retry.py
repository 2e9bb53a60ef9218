"""The one place that tries again, and the one that waits for a condition."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import GaveUp

T = TypeVar("T")


def retry(
    act: Callable[[], T],
    *,
    on: tuple[type[Exception], ...],
    within_s: float,
    what: str,
    unless: tuple[type[Exception], ...] = (),
    first_pause_s: float = 0.05,
    clock: Clock = SYSTEM,
) -> T:
    """Call ``act`` until it returns; pauses double up to 1 s; each is a random part of it, half at least.

    Errors: ``GaveUp`` from the last failure once ``within_s`` has passed; whatever is not in ``on``, or is in
    ``unless``, at once.
    """
    deadline = clock.monotonic() + within_s
    pause = first_pause_s
    while True:
        try:
            return act()
        except unless:
            raise
        except on as exc:
            if clock.monotonic() >= deadline:
                raise GaveUp(f"{what} did not succeed within {within_s:g} s: {exc}") from exc
        clock.sleep(random.uniform(pause / 2, pause))
        pause = min(pause * 2, 1.0)


def wait_until(
    holds: Callable[[], bool], *, within_s: float, what: str, every_s: float = 0.02, clock: Clock = SYSTEM
) -> float:
    """Poll until ``holds()``; returns the seconds it took. Errors: ``GaveUp``, naming ``what`` was waited for."""
    start = clock.monotonic()
    while not holds():
        if clock.monotonic() - start > within_s:
            raise GaveUp(f"waited {within_s:g} s for {what}")
        clock.sleep(every_s)
    return clock.monotonic() - start
