"""What a run is about: a folder, a database, the settings, and what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from dbsec.backfill import Job
from dbsec.backfill.worker import Waits
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ConnectError
from dbsec.journal import Observer
from dbsec.migrations.reading.parse import once
from dbsec.migrations.runner import session
from dbsec.migrations.runner.alone import alone
from dbsec.migrations.runner.ledger import NEEDS
from dbsec.migrations.runner.releases import Reach
from dbsec.migrations.runner.stepping import Machine
from dbsec.migrations.script import Phase
from dbsec.migrations.settings import Settings
from dbsec.pg import own
from dbsec.progress import Progress, Silent

Connect = Callable[[], psycopg.Connection[Any]]
Throttled = Callable[[Job], AbstractContextManager[Waits]]


@dataclass(frozen=True)
class Target:
    """``connect`` opens a session in autocommit, of the role that owns the tables. ``others``: more servers on which
    clients of the service may be, by reference. ``gates`` False: a canary, on which no release is waited for."""

    folder: Path
    connect: Connect
    settings: Settings
    release: str = ""
    others: Mapping[str, Reach] = field(default_factory=dict)
    throttled: Throttled | None = None
    gates: bool = True
    progress: Progress = field(default_factory=Silent)
    clock: Clock = SYSTEM
    observer: Observer | None = None

    @contextmanager
    def machine(self, *, wait_s: float = 0) -> Iterator[Machine]:
        """Open the one session that runs statements, with the lock of the only runner.

        Errors: ``ApplyError`` where schema dbsec is not installed; ``ConnectError`` where a pooler stands between,
        where nothing can be written (a standby), and where the session is lost between two statements;
        ``GaveUp`` where another runner is at work.
        """
        limits = self.settings.runner
        with once(), self.connect() as connection:
            session.require(connection, limits)
            own.require(connection, NEEDS)
            if (unwritable := session.unwritable(connection)) is not None:
                raise unwritable
            with (
                _told_where_lost(connection),
                alone(connection, wait_s=wait_s, progress=self.progress, clock=self.clock),
            ):
                yield Machine(connection, self.connect, limits, self.progress, self.clock, self.observer)


@contextmanager
def _told_where_lost(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Say that the server is away where no statement of a file was at work that says so itself."""
    try:
        yield
    except psycopg.Error as exc:
        if not (connection.closed or connection.broken):
            raise
        raise ConnectError(
            "the connection was lost between two statements: the server is away, or it has ended our session",
            sqlstate=exc.sqlstate,
            hint="dbsec migrate resume, once the server answers",
        ) from exc


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call of ``up`` or ``down`` asks for. ``to``: the last number (of ``down``: the last that stays).

    ``force`` is the reason to go past what is forcible. ``free_bytes``: free disk, where the server cannot be asked.
    """

    to: int | None = None
    phase: Phase | None = None
    wait_s: float = 0
    force: str = ""
    out_of_order: bool = False
    free_bytes: int | None = None
    workers: int = 1
