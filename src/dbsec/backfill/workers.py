"""Runs a backfill: threads that take batches until none is left, whatever the server does to them meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg

from dbsec.backfill.job import Job
from dbsec.backfill.state import State, Status
from dbsec.clock import SYSTEM, Clock
from dbsec.journal import Observer
from dbsec.progress import Progress, Silent

Connect = Callable[[], psycopg.Connection[Any]]


class Waits(Protocol):
    """What holds a worker back before a batch: ``dbsec.backfill.throttle.Throttle``."""

    def wait(self, told: Callable[[str], None], *, go_on: Callable[[], bool]) -> float:
        """Return once the next batch may begin, or ``go_on()`` is False; gives the seconds waited."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: ``state`` is DONE or ABORTED. ``hint`` says what to do about dead rows, or nothing."""

    state: State
    status: Status
    seconds: float
    throttled_s: float
    retries: int
    reconnects: int
    hint: str = ""


def run(
    connect: Connect,
    job: Job,
    *,
    workers: int = 1,
    throttle: Waits | None = None,
    progress: Progress | None = None,
    clock: Clock = SYSTEM,
    observer: Observer | None = None,
) -> Outcome:
    """Walk a table to its end, from where an earlier run stopped; several hosts may do so at once."""
    raise NotImplementedError
