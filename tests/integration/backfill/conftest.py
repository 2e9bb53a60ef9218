"""A database with schema dbsec, a table whose rows count how often they were written, and runs in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg
import pytest

from dbsec import backfill, retry
from dbsec.backfill import Job, Limits, Outcome
from dbsec.journal import Edge
from dbsec.pg import Conninfo, connect, own


class Said:
    """A progress that keeps what it was told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.counts: list[tuple[int, int]] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def count(self, text: str, done: int, total: int) -> None:
        self.counts.append((done, total))

    def has(self, text: str) -> bool:
        return any(text in step for step in self.steps)


class Stop:
    """An observer that holds a worker at one edge until it is let go."""

    def __init__(self, step: str, edge: Edge) -> None:
        self._where = (step, edge)
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, step: str, edge: Edge) -> None:
        if (step, edge) == self._where:
            self.reached.set()
            assert self.go_on.wait(30), "nobody let it go on"


@dataclass
class Background:
    """A run in a thread; leaving it lets the run end, and raises what it raised."""

    thread: threading.Thread
    outcome: list[Outcome] = field(default_factory=list)
    failure: list[BaseException] = field(default_factory=list)

    def result(self) -> Outcome:
        self.thread.join(60)
        assert not self.thread.is_alive(), "the backfill did not end"
        if self.failure:
            raise self.failure[0]
        return self.outcome[0]


@dataclass
class Scene:
    """A database, an administrator's session, and the table ``app.t``."""

    conninfo: Conninfo
    db: psycopg.Connection[Any]
    limits: Limits = field(default_factory=lambda: Limits(reconnect_s=30, give_up_s=30, range_batches=2))

    def table(self, rows: int, name: str = "app.t") -> None:
        self.db.execute(f"CREATE TABLE {name} (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0, v text)")
        self.db.execute(f"INSERT INTO {name} (id) SELECT g * 3 FROM generate_series(1, {rows}) g")

    def times(self, name: str = "app.t") -> dict[int, int]:
        """How often how many rows were written."""
        return dict(self.db.execute(f"SELECT n, count(*) FROM {name} GROUP BY n ORDER BY n").fetchall())

    def job(self, **changes: Any) -> Job:
        """A job that counts in each row how often it was written."""
        given = {"name": "count", "table": "app.t", "key": ("id",), "set": "n = n + 1", "batch_rows": 50}
        return Job(**{**given, **changes})

    def python(self, function: Callable[..., Any], **changes: Any) -> Job:
        return self.job(**{"set": None, "python": function, "columns": ("n",), **changes})

    def run(self, job: Job, **more: Any) -> Outcome:
        return backfill.run(partial(connect, self.conninfo), job, **{"limits": self.limits, **more})

    def background(self, job: Job, **more: Any) -> Background:
        def target() -> None:
            try:
                made.outcome.append(self.run(job, **more))
            except BaseException as exc:  # the test's thread raises it
                made.failure.append(exc)

        made = Background(threading.Thread(target=target, daemon=True))
        made.thread.start()
        return made

    def until(self, query: str, what: str) -> None:
        """Wait until a query gives true."""
        retry.wait_until(lambda: self.db.execute(query).fetchone()[0] is True, within_s=30, what=what)

    def another(self) -> psycopg.Connection[Any]:
        """A session of the service."""
        return connect(self.conninfo, application_name="service@blue")


@pytest.fixture
def scene_of() -> Iterator[Callable[[Conninfo], Scene]]:
    """Set the scene in a database of one's own."""
    with ExitStack() as stack:

        def made(conninfo: Conninfo) -> Scene:
            db = stack.enter_context(connect(conninfo))
            own.install(db)
            db.execute("CREATE SCHEMA app")
            return Scene(conninfo, db)

        yield made


@pytest.fixture
def scene(database: Any, scene_of: Callable[[Conninfo], Scene]) -> Scene:
    return scene_of(database.conninfo)


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def stop() -> Callable[[str, Edge], Stop]:
    """Make an observer that holds a worker at an edge."""
    return Stop
