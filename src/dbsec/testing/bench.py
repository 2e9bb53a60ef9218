"""Where examples of rules run: a fresh database each, one statement after another, each of them observed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import psycopg

from dbsec.migrations.effects.model import Effect, LockMode
from dbsec.migrations.names import Name
from dbsec.migrations.oracle.observe import Observed, Observer
from dbsec.migrations.reading.parse import parse_text
from dbsec.migrations.statement import Origin, Statement
from dbsec.pg import Conninfo, connect
from dbsec.testing.scratch import Scratch

_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Done:
    """One statement that ran, with the locks that its transaction held when it began."""

    statement: Statement
    observed: Observed
    held: dict[Name, LockMode] = field(default_factory=dict)

    @property
    def effect(self) -> Effect:
        return self.observed.effect or Effect()

    def holds(self, table: Name) -> LockMode | None:
        """Tell the strongest lock on a table while the statement ran."""
        own = self.effect.lock_on(table)
        return max((mode for mode in (own, self.held.get(table)) if mode), default=None)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a script did: ``old`` are the tables that were there before it; ``answer`` what was asked after it."""

    done: tuple[Done, ...]
    old: frozenset[Name]
    answer: Answer | None = None

    @property
    def errors(self) -> list[tuple[str, str]]:
        return [one.observed.error for one in self.done if one.observed.error]

    def notices(self) -> Iterator[str]:
        """Yield the SQLSTATEs of what the server said beside errors."""
        return (notice.sqlstate for one in self.done for notice in one.observed.notices)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query gave: its rows, or its SQLSTATE."""

    rows: list[tuple[Any, ...]] | None
    sqlstate: str = ""


@dataclass(frozen=True, slots=True)
class Meanwhile:
    """A statement of another session, in a transaction that is open while a script runs; where it ``yields``, until the
    script waits for it."""

    statement: str
    yields: bool

    @contextmanager
    def beside(self, actor: psycopg.Connection[Any], conninfo: Conninfo) -> Iterator[None]:
        """Keep the transaction open beside ``actor``."""
        ended = threading.Event()
        with connect(conninfo) as blocker, connect(conninfo) as watcher:
            blocker.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            for one in direct(self.statement):
                blocker.execute(one.text.encode())

            def give_way() -> None:
                while not ended.wait(_POLL_S):
                    if waits(watcher, actor.info.backend_pid, by=blocker.info.backend_pid):
                        blocker.execute("ROLLBACK")
                        return

            thread = threading.Thread(target=give_way, daemon=True)
            if self.yields:
                thread.start()
            try:
                yield
            finally:
                ended.set()
                if self.yields:
                    thread.join()


def waits(watcher: psycopg.Connection[Any], pid: int, *, by: int | None = None) -> bool:
    """Tell whether a backend waits for a lock, or for a given other one."""
    row = watcher.execute("SELECT pg_blocking_pids(%s)", [pid]).fetchone()
    blockers = row[0] if row else []
    return by in blockers if by else bool(blockers)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where examples run."""

    scratch: Scratch

    @contextmanager
    def set_up(self, setup: str) -> Iterator[tuple[Conninfo, psycopg.Connection[Any]]]:
        """Give a fresh database after ``setup``, and a session there."""
        with self.scratch.fresh() as (conninfo, session):
            for statement in direct(setup):
                session.execute(statement.text.encode())
            session.execute("RESET ALL")
            yield conninfo, session

    def run(self, setup: str, script: str, question: str = "", *, meanwhile: Meanwhile | None = None) -> Ran:
        """Run a script as psql would after ``setup``, and ask ``question`` then, in a transaction that is undone."""
        with self.set_up(setup) as (conninfo, watcher), connect(conninfo) as actor:
            observer = Observer(actor, watcher, lambda: connect(conninfo))
            old = frozenset(observer.tables())
            with meanwhile.beside(actor, conninfo) if meanwhile else nullcontext():
                done = tuple(_each(observer, direct(script)))
            if observer.in_transaction:
                actor.execute("ROLLBACK")
            return Ran(done, old, ask(watcher, question) if question else None)

    def ask(self, setup: str, question: str) -> Answer:
        """Ask after ``setup`` alone."""
        with self.set_up(setup) as (_, session):
            return ask(session, question)


def ask(session: psycopg.Connection[Any], question: str) -> Answer:
    """Run one statement of the running release and undo it; its rows are sorted where it gives any."""
    session.execute("BEGIN")
    try:
        cursor = session.execute(question.encode())
        return Answer(sorted(cursor.fetchall(), key=repr) if cursor.description else [])
    except psycopg.Error as exc:
        return Answer(None, exc.sqlstate or "")
    finally:
        session.execute("ROLLBACK")


def direct(text: str) -> list[Statement]:
    """Read the statements that a client sends: what stands inside of a DO block goes with it."""
    return [statement for statement in parse_text(text) if statement.origin is Origin.DIRECT]


def _each(observer: Observer, statements: list[Statement]) -> Iterator[Done]:
    held: dict[Name, LockMode] = {}
    for statement in statements:
        if not observer.in_transaction:
            held = {}
        seen = observer.run(statement.text, statement.kind)
        yield Done(statement, seen, dict(held))
        for name, mode in (seen.effect or Effect()).locks:
            held[name] = max(mode, held.get(name, mode))
