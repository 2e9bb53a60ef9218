"""What the tests of the runner share: statements read as a release, sessions that stand in the way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
import pytest

from dbsec.migrations.names import Name
from dbsec.migrations.reading.marks import comments_of
from dbsec.migrations.runner import execute as runner
from dbsec.migrations.runner.classify import Classified, bodies_of, classify, turns
from dbsec.migrations.runner.limits import Limits
from dbsec.migrations.schema.catalog import from_catalog
from dbsec.migrations.script import Script
from dbsec.pg import Conninfo, connect
from dbsec.testing.clusters import Cluster

E = TypeVar("E", bound=BaseException)
SETUP = """
CREATE SCHEMA app;
CREATE TABLE app.users (id bigint PRIMARY KEY, email text, phone text);
CREATE TABLE app.orders (id bigint PRIMARY KEY, user_id bigint);
INSERT INTO app.users SELECT n, 'user' || n, '+49' || n FROM generate_series(1, 1000) AS n;
INSERT INTO app.orders SELECT n, n FROM generate_series(1, 1000) AS n;
"""
ADD = "ALTER TABLE app.users ADD COLUMN country text;"
# nothing is small, and nothing takes longer than a test wants to wait
LIMITS = Limits(small_bytes=0, give_up_s=20, long_s=30)


@dataclass(frozen=True)
class Fresh:
    """A database that was emptied for one test."""

    cluster: Cluster
    conninfo: Conninfo


def classified(session: psycopg.Connection[Any], text: str) -> list[Classified]:
    script = Script("m.sql", text, comments=comments_of(text))
    major = session.info.server_version // 10000
    return classify([script], from_catalog(session), major=major, bodies=bodies_of(session))


def run(session: psycopg.Connection[Any], text: str, limits: Limits = LIMITS, **how: Any) -> runner.Ran:
    """Run the last turn of a file; those before it only say what is set."""
    turn = turns(classified(session, text))[-1]
    if len(turn) > 1:
        return runner.execute_together(session, turn, limits, **how)
    return runner.execute(session, turn[0], limits, **how)


def name(table: str) -> Name:
    return Name("app", table)


@contextmanager
def another(conninfo: Conninfo, *statements: str, name: str = "service@blue") -> Iterator[psycopg.Connection[Any]]:
    """Another session, in a transaction with these statements."""
    with connect(conninfo, application_name=name) as made:
        made.execute("SET idle_in_transaction_session_timeout = '20s'")  # a test that fails must not wait for ever
        made.execute("BEGIN")
        for statement in statements:
            made.execute(statement.encode())
        yield made
        if not made.closed:
            made.execute("ROLLBACK")


@contextmanager
def behind(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Run in a thread; what it raised is raised at the end of the block, unless somebody asked for it."""
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(work)
        yield made
        made.result(timeout=60)


def columns(session: psycopg.Connection[Any], table: str = "app.users") -> set[str]:
    rows = session.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped", (table,)
    )
    return {row[0] for row in rows}


def error_of(kind: type[E], act: Callable[..., Any], *arguments: Any, **named: Any) -> E:
    """Return the error that an act must end with."""
    with pytest.raises(kind) as caught:
        act(*arguments, **named)
    return caught.value


class Queue:
    """Watches, every millisecond or so, whether any session waits behind ``pid``."""

    def __init__(self, conninfo: Conninfo, pid: int) -> None:
        self.behind: list[tuple[int, str]] = []
        self.looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(conninfo, pid))

    def _look(self, conninfo: Conninfo, pid: int) -> None:
        with connect(conninfo) as watcher:
            query = "SELECT pid, query FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
            while not self._stop.is_set():
                self.behind += watcher.execute(query, (pid,)).fetchall()
                self.looks += 1

    def __enter__(self) -> Queue:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        self._thread.join()
