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
_LADDER = (LockMode.ACCESS_SHARE, LockMode.ROW_EXCLUSIVE, LockMode.SHARE_UPDATE_EXCLUSIVE)
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
    """A session that holds a ladder of locks on one table and steps down it."""

    connection: psycopg.Connection[Any]
    rung: int = len(_LADDER) - 1

    def hold(self, table: Name) -> None:
        self.connection.execute("BEGIN")
        target = sql.Identifier(*(part for part in table if part))
        for rung, mode in enumerate(_LADDER):
            self.connection.execute(sql.SQL("SAVEPOINT {}").format(sql.Identifier(f"rung{rung}")))
            self.connection.execute(sql.SQL(f"LOCK TABLE ONLY {{}} IN {mode.sql} MODE").format(target))

    def give_way(self) -> None:
        if self.rung:
            self.connection.execute(sql.SQL("ROLLBACK TO {}").format(sql.Identifier(f"rung{self.rung}")))
        else:
            self.connection.execute("ROLLBACK")
        self.rung -= 1


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
                if holder.rung >= 0:
                    holder.give_way()
            thread.join(0 if waits_for else _POLL_S)


@contextmanager
def holding(tables: Iterable[Name], connect: Callable[[], psycopg.Connection[Any]]) -> Iterator[dict[int, _Holder]]:
    """Hold each table by a session of its own: SHARE UPDATE EXCLUSIVE, then ROW EXCLUSIVE, then ACCESS SHARE.

    A statement that wants more than ACCESS SHARE waits at least once on each table, so that what it holds meanwhile can
    be read; nothing depends on how long it runs.
    """
    with ExitStack() as stack:
        held: dict[int, _Holder] = {}
        for table in tables:
            holder = _Holder(stack.enter_context(connect()))
            holder.hold(table)
            held[holder.connection.info.backend_pid] = holder
        yield held
