"""The locks of a statement that runs in no transaction of ours: it is made to wait wherever it takes one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name

# Weak first: what a holder still has after it gave way to the statement once, and twice.
_TAKE: tuple[LiteralString, ...] = (
    "LOCK TABLE ONLY {} IN ACCESS SHARE MODE",
    "LOCK TABLE ONLY {} IN ROW EXCLUSIVE MODE",
    "LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE",
)
_TAKE_OF_VIEW: tuple[LiteralString, ...] = (  # LOCK TABLE refuses a materialized view
    "EXPLAIN SELECT FROM {}",
    "COMMENT ON MATERIALIZED VIEW {} IS NULL",
)
_POLL_S = 0.003

_LOCKS: LiteralString = """
SELECT relation::bigint, mode FROM pg_locks
 WHERE pid = %s AND locktype = 'relation'
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_MODES = {mode.pg_locks: mode for mode in LockMode}

Locks = set[tuple[int, LockMode]]


def locks_of(pid: int, watcher: psycopg.Connection[Any]) -> Locks:
    """Read the table locks that a backend holds or waits for, as another session sees them."""
    return {(oid, _MODES[mode]) for oid, mode in watcher.execute(_LOCKS, [pid]) if mode in _MODES}


@dataclass(slots=True)
class _Holder:
    """A session that holds a ladder of locks on one relation and steps down it."""

    connection: psycopg.Connection[Any]
    rungs: int = 0

    def hold(self, relation: Name, *, materialized: bool) -> None:
        self.connection.execute("BEGIN")
        for take in _TAKE_OF_VIEW if materialized else _TAKE:
            self.connection.execute(sql.SQL("SAVEPOINT {}").format(_rung(self.rungs)))
            self.connection.execute(sql.SQL(take).format(sql.Identifier(*(part for part in relation if part))))
            self.rungs += 1

    def give_way(self) -> None:
        self.rungs -= 1
        back = sql.SQL("ROLLBACK TO {}").format(_rung(self.rungs)) if self.rungs else sql.SQL("ROLLBACK")
        self.connection.execute(back)


def _rung(number: int) -> sql.Identifier:
    return sql.Identifier(f"rung{number}")


@dataclass(slots=True)
class Run:
    """A statement in its own thread; ``locks`` is all that it was seen to hold or want."""

    actor: psycopg.Connection[Any]
    text: str
    locks: Locks = field(default_factory=set)
    error: BaseException | None = None

    def _execute(self) -> None:
        try:
            self.actor.execute(self.text.encode())
        except psycopg.Error as exc:
            self.error = exc

    def watch(self, watcher: psycopg.Connection[Any], holders: dict[int, _Holder]) -> None:
        """Run it to its end; whenever it waits for a holder, look at its locks and let that holder step down."""
        pid = self.actor.info.backend_pid
        thread = threading.Thread(target=self._execute, daemon=True)
        thread.start()
        while thread.is_alive():
            blockers = watcher.execute("SELECT pg_blocking_pids(%s)", [pid]).fetchone()
            waits_for = [holders[by] for by in blockers[0] if by in holders] if blockers else []
            self.locks |= locks_of(pid, watcher)
            for holder in waits_for:
                if holder.rungs:
                    holder.give_way()
            thread.join(0 if waits_for else _POLL_S)


@contextmanager
def holding(
    relations: Iterable[tuple[Name, bool]], connect: Callable[[], psycopg.Connection[Any]]
) -> Iterator[dict[int, _Holder]]:
    """Hold each table (True beside a name: a materialized view) by a session of its own, by three locks.

    SHARE UPDATE EXCLUSIVE, then ROW EXCLUSIVE, then ACCESS SHARE: a statement that wants more than the last waits at
    least once on each, so that what it holds meanwhile can be read; nothing depends on how long it runs.
    """
    with ExitStack() as stack:
        held: dict[int, _Holder] = {}
        for relation, materialized in relations:
            holder = _Holder(stack.enter_context(connect()))
            holder.hold(relation, materialized=materialized)
            held[holder.connection.info.backend_pid] = holder
        yield held
