"""Runs one statement the way of its kind: it never queues in front of the service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import psycopg

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import UsageError
from dbsec.migrations.runner import outside, session
from dbsec.migrations.runner.classify import Classified, Kind
from dbsec.migrations.runner.failures import BlockingRefused, ConnectionLost, LockNotTaken, StatementFailed
from dbsec.migrations.runner.limits import Limits
from dbsec.migrations.runner.pursuit import Told
from dbsec.migrations.runner.turn import Around, Ran, Run
from dbsec.migrations.runner.waiting import watching
from dbsec.migrations.runner.words import shown
from dbsec.progress import Progress, Silent

__all__ = [
    "BlockingRefused",
    "ConnectionLost",
    "LockNotTaken",
    "Ran",
    "StatementFailed",
    "execute",
    "execute_together",
]

Connect = Callable[[], psycopg.Connection[Any]]
_WAITS = (Kind.LONG, Kind.CONCURRENT, Kind.ROWS)
_SILENT = Silent()


def execute(
    connection: psycopg.Connection[Any],
    classified: Classified,
    limits: Limits,
    *,
    around: Around = nullcontext,
    told: Told | None = None,
    progress: Progress = _SILENT,
    clock: Clock = SYSTEM,
    watch: Connect | None = None,
    again: bool = False,
) -> Ran:
    """Run one statement. ``connection``: autocommit, in no transaction.

    ``around()`` is entered in the statement's transaction once its locks are held and left before COMMIT; after a
    failure the transaction is rolled back before it is left, and a turn that is tried again enters it again. Where the
    statement runs outside a transaction (CONCURRENT, SESSION) it is entered and left around it, in autocommit.
    ``watch`` opens a second session that tells who is waited for while the first is busy. ``again``: an earlier run
    began it; what CONCURRENT did then counts as done.
    Errors: ``LockNotTaken``, ``StatementFailed``, ``BlockingRefused``, ``ConnectError``; none shows a row's value.
    """
    if classified.kind is Kind.TRANSACTION:
        raise UsageError(f"'{classified.place}' belongs to a block: it is run together")
    major = session.require(connection, limits)
    run = Run(connection, [classified], limits, around, told, progress, clock, major)
    progress.step(f"{classified.place}: {shown(classified.statement)}: {classified.kind}, {classified.why}")
    with watching(watch if classified.kind in _WAITS else None, connection.info.backend_pid, told):
        if classified.kind is Kind.SESSION:
            return outside.plain(run)
        return outside.alone(run, again=again) if classified.alone else run.chase()


def execute_together(
    connection: psycopg.Connection[Any],
    block: Sequence[Classified],
    limits: Limits,
    *,
    around: Around = nullcontext,
    told: Told | None = None,
    progress: Progress = _SILENT,
    clock: Clock = SYSTEM,
    watch: Connect | None = None,
) -> Ran:
    """Run a BEGIN … COMMIT block (a group of ``classify.turns``): all its locks first in one turn, then its statements.

    ``around`` and errors as for ``execute``. Errors: ``UsageError`` for a block without an end.
    """
    major = session.require(connection, limits)
    body = ", ".join(shown(one.statement) for one in block[1:4])
    progress.step(f"{block[0].place}: a block of {len(block)} statements: {body} …")
    with watching(watch, connection.info.backend_pid, told):
        return Run(connection, list(block), limits, around, told, progress, clock, major).chase()
