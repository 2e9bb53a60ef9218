"""Runs one statement the way of its kind: it never queues in front of the service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import psycopg

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ApplyError, ConnectError, GaveUp
from dbsec.migrations.runner.blockers import Blocker
from dbsec.migrations.runner.classify import Classified
from dbsec.migrations.runner.limits import Limits
from dbsec.progress import Progress, Silent

Around = Callable[[], AbstractContextManager[object]]
Told = Callable[[Sequence[Blocker]], None]
Connect = Callable[[], psycopg.Connection[Any]]


class LockNotTaken(GaveUp):
    """The lock was not to be had in time; ``blockers`` are those who hold it."""

    blockers: tuple[Blocker, ...]


class StatementFailed(ApplyError):
    """PostgreSQL refused a statement, and nothing of it is left; ``sqlstate`` and ``place`` (file:line) say which."""

    sqlstate: str
    place: str


class BlockingRefused(ApplyError):
    """The statement would block the service for as long as it works, and nobody allowed that."""


class ConnectionLost(ConnectError):
    """The session ended in the middle; ``applied`` is False, or None where nobody can tell."""

    applied: bool | None


@dataclass(frozen=True, slots=True)
class Ran:
    """``seconds``: the statement itself. ``waited_s``: before it. ``turns``: transactions begun; ``lock_attempts``:
    NOWAIT and waiting ones. ``held_s``: how long its locks were held. ``already``: it was there, and nothing was run."""

    seconds: float
    waited_s: float = 0.0
    turns: int = 1
    lock_attempts: int = 0
    held_s: float = 0.0
    cancelled: tuple[Blocker, ...] = ()
    repaired: tuple[str, ...] = ()
    already: bool = False


def execute(
    connection: psycopg.Connection[Any],
    classified: Classified,
    limits: Limits,
    *,
    around: Around = nullcontext,
    told: Told | None = None,
    progress: Progress = Silent(),
    clock: Clock = SYSTEM,
    watch: Connect | None = None,
    again: bool = False,
) -> Ran:
    """Run one statement. ``connection``: autocommit, in no transaction.

    ``around()`` is entered in the statement's transaction once its locks are held and left before COMMIT; after a
    failure the transaction is rolled back before it is left. ``watch`` opens a second session that tells who is waited
    for while CONCURRENT or LONG waits. ``again``: an earlier run began it; what CONCURRENT has left counts as done.
    """
    raise NotImplementedError


def execute_together(
    connection: psycopg.Connection[Any],
    block: Sequence[Classified],
    limits: Limits,
    *,
    around: Around = nullcontext,
    told: Told | None = None,
    progress: Progress = Silent(),
    clock: Clock = SYSTEM,
) -> Ran:
    """Run a BEGIN … COMMIT block: all its locks first, in one turn, then its statements."""
    raise NotImplementedError


def require_session(connection: psycopg.Connection[Any], limits: Limits) -> None:
    """Refuse a connection whose session is not one on the server (a pooler in transaction mode)."""
    raise NotImplementedError
