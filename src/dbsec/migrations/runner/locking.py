"""Takes the locks of a statement by NOWAIT, again and again, so that nobody ever queues behind it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, LiteralString

import psycopg
from psycopg import errors, sql

from dbsec.clock import Clock
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name
from dbsec.migrations.runner import failures
from dbsec.migrations.runner.blockers import Blocker, holding, looking
from dbsec.migrations.runner.classify import Classified
from dbsec.migrations.runner.limits import Limits

Told = Callable[[Sequence[Blocker]], None]
_SUX = LockMode.SHARE_UPDATE_EXCLUSIVE
_LOOK_S = 1.0  # pg_locks is read by all its partitions: not at each turn
_REFUSED = (errors.LockNotAvailable, errors.DeadlockDetected)
_TARGETS: LiteralString = """
SELECT c.oid::bigint, n.nspname, c.relname, wanted.mode::int,
       c.relkind IN ('r', 'p') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND (
         pg_catalog.has_table_privilege(c.oid, 'UPDATE') OR pg_catalog.has_table_privilege(c.oid, 'DELETE')
         OR pg_catalog.has_table_privilege(c.oid, 'TRUNCATE'))
  FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::int[]))
       WITH ORDINALITY AS wanted (place, name, mode, n)
  JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.place
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
 WHERE c.relpersistence <> 't' ORDER BY wanted.n
"""
_CANCEL: LiteralString = """
SELECT CASE WHEN %(end)s THEN pg_catalog.pg_terminate_backend(%(pid)s) ELSE pg_catalog.pg_cancel_backend(%(pid)s) END
 WHERE EXISTS (SELECT FROM pg_catalog.pg_locks
                WHERE pid = %(pid)s AND virtualtransaction = %(transaction)s AND granted)
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A relation that is there, with the mode that the statement takes.

    ``lockable``: LOCK TABLE can take it. It cannot take sequences, indexes, materialized views and foreign tables, and
    of a view it would lock the tables too; and it asks for UPDATE, DELETE or TRUNCATE, which REFERENCES is not.
    """

    oid: int
    name: Name
    mode: LockMode
    lockable: bool


def targets(connection: psycopg.Connection[Any], locks: Iterable[tuple[Name, LockMode]]) -> list[Target]:
    """Look up what of the locks is there; temporary tables are nobody else's."""
    wanted = list(locks)
    if not wanted:
        return []
    columns = (
        [name.schema or "public" for name, _ in wanted],
        [name.name for name, _ in wanted],
        [int(mode) for _, mode in wanted],
    )
    with looking(connection) as cursor:
        rows = cursor.execute(_TARGETS, columns).fetchall()
    return [Target(oid, Name(place, name), LockMode(mode), bool(able)) for oid, place, name, mode, able in rows]


def lock(one: Target, *, nowait: bool) -> sql.Composed:
    """Write LOCK TABLE without the children: they are targets of their own."""
    return sql.SQL("LOCK TABLE ONLY {} IN {} MODE{}").format(
        sql.Identifier(one.name.schema or "public", one.name.name),
        sql.SQL(_MODE_WORDS[one.mode]),
        sql.SQL(" NOWAIT" if nowait else ""),
    )


def _timeout(value: int | str) -> sql.Composed:
    return sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(value))


_MODE_WORDS: dict[LockMode, LiteralString] = {
    LockMode.ACCESS_SHARE: "ACCESS SHARE",
    LockMode.ROW_SHARE: "ROW SHARE",
    LockMode.ROW_EXCLUSIVE: "ROW EXCLUSIVE",
    LockMode.SHARE_UPDATE_EXCLUSIVE: "SHARE UPDATE EXCLUSIVE",
    LockMode.SHARE: "SHARE",
    LockMode.SHARE_ROW_EXCLUSIVE: "SHARE ROW EXCLUSIVE",
    LockMode.EXCLUSIVE: "EXCLUSIVE",
    LockMode.ACCESS_EXCLUSIVE: "ACCESS EXCLUSIVE",
}


@dataclass(slots=True)
class Pursuit:
    """The chase of one statement's locks over many turns: who refused, whether to wait a little, when to give up."""

    connection: psycopg.Connection[Any]
    what: str
    found: list[Target]
    limits: Limits
    clock: Clock
    told: Told | None = None
    attempts: int = 0
    cancelled: list[Blocker] = field(default_factory=list)
    last: list[Blocker] = field(default_factory=list)
    _began: float = field(init=False)
    _looked: float = field(init=False)
    _young_since: float = field(init=False)
    _seen: dict[tuple[object, str], float] = field(default_factory=dict)
    _step: int = -1

    def __post_init__(self) -> None:
        self._began = self._young_since = self.clock.monotonic()
        self._looked = self._began - _LOOK_S

    @property
    def waited_s(self) -> float:
        return self.clock.monotonic() - self._began

    def clear(self, *, all_of_them: bool = False) -> bool:
        """Tell whether a turn may begin: what LOCK TABLE cannot take is tried only while no other session holds it."""
        unlockable = [(one.oid, one.mode) for one in self.found if all_of_them or not one.lockable]
        if not unlockable:
            return True
        self.last = holding(self.connection, unlockable)
        return not self.last

    def taking(self, own: str) -> list[sql.Composable]:
        """Write the LOCK TABLEs of the next turn; ``own``: the lock_timeout of what comes after them.

        NOWAIT, but for the first one of a starving pursuit: it may wait a little, for only young transactions hold it.
        An autovacuum gives way to who waits for it: it is waited for in SHARE UPDATE EXCLUSIVE, behind which neither
        reads nor writes queue.
        """
        if self.attempts == 1 and len(self.found) > 1:
            self._held_first()
        able = [one for one in self.found if one.lockable]
        if not able:
            return []
        if self._only_autovacuum():
            weak = [replace(one, mode=LockMode.SHARE_UPDATE_EXCLUSIVE) for one in able if one.mode > _SUX]
            first = [_timeout(self._deadlock_ms() + 1000), *(lock(one, nowait=False) for one in weak), _timeout(own)]
            return [*first, *(lock(one, nowait=True) for one in able)]
        if self._step >= 0 and self._young_only():
            wait = self._wait_ms()
            first = [_timeout(wait), lock(able[0], nowait=False), _timeout(own)]
            return [*first, *(lock(one, nowait=True) for one in able[1:])]
        return [lock(one, nowait=True) for one in able]

    def refused(self, message: str = "", *, pause_s: float | None = None) -> None:
        """Note that a turn failed, tell who stands in the way, and pause. Errors: ``LockNotTaken`` at the end."""
        self._first_in_turn(message)
        now = self.clock.monotonic()
        if now - self._looked >= _LOOK_S:
            self._look(now)
        if now - self._began >= self.limits.give_up_s:
            raise failures.not_taken(self.what, now - self._began, self.look())
        waited = self._wait_ms() / 1000 if self._step >= 0 else 0.0
        pause = self.limits.poll_ms / 1000 + 5 * waited if pause_s is None else pause_s
        self.clock.sleep(random.uniform(0.8 * pause, 1.2 * pause))

    def look(self) -> list[Blocker]:
        """List who stands in the way now, or stood there when we looked last."""
        return holding(self.connection, self._wanted()) or self.last

    def _wait_ms(self) -> int:
        steps = self.limits.escalation_ms
        return steps[min(max(self._step, 0), len(steps) - 1)]

    def _young_only(self) -> bool:
        now = self.clock.monotonic()
        self.last = holding(self.connection, self._wanted())
        return not self._old(now)

    def _only_autovacuum(self) -> bool:
        return bool(self.last) and all(one.autovacuum and not one.wraparound for one in self.last)

    def _deadlock_ms(self) -> int:
        with looking(self.connection) as cursor:
            row = cursor.execute("SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout'")
            return int((row.fetchone() or (1000,))[0])

    def _wanted(self) -> list[tuple[int, LockMode]]:
        return [(one.oid, one.mode) for one in self.found]

    def _held_first(self) -> None:
        """Put first what others hold, so that the rest is not even locked while they do."""
        self.last = holding(self.connection, self._wanted())
        held = {one.table for one in self.last}
        self.found.sort(key=lambda one: one.name not in held)

    def _first_in_turn(self, message: str) -> None:
        """Put the relation that refused first, so that the others are not even locked while it refuses."""
        at = next((n for n, one in enumerate(self.found) if f'"{one.name.name}"' in message), None)
        if at:
            self.found.insert(0, self.found.pop(at))

    def _look(self, now: float) -> None:
        self._looked = now
        self.last = holding(self.connection, self._wanted())
        old = self._old(now)
        if old:
            self._young_since, self._step = now, -1
        elif now - self._young_since >= self.limits.starving_s:
            self._step += 1
        if self.told is not None and (old or self._step >= 0):
            self.told(old or self.last)
        if old and self.limits.cancel_blockers and now - self._began >= self.limits.cancel_after_s:
            self._cancel(old)

    def _old(self, now: float) -> list[Blocker]:
        keys = {_key(one) for one in self.last}
        self._seen = {key: since for key, since in self._seen.items() if key in keys}
        return [one for one in self.last if self._age_s(one, now) * 1000 >= self.limits.old_ms]

    def _age_s(self, one: Blocker, now: float) -> float:
        """How old its transaction is: by its start where we may see it, else by how long we have met it."""
        met = now - self._seen.setdefault(_key(one), now)
        return max(met, (self.clock.now() - one.since).total_seconds() if one.since else 0.0)

    def _cancel(self, old: Sequence[Blocker]) -> None:
        for one in old:
            if one.pid is None or one.wraparound or not one.granted:
                continue
            told = {"end": one.idle, "pid": one.pid, "transaction": one.transaction}
            with suppress(errors.InsufficientPrivilege), looking(self.connection) as cursor:
                row = cursor.execute(_CANCEL, told).fetchone()
                if row is not None and row[0]:
                    self.cancelled.append(one)


def _key(one: Blocker) -> tuple[object, str]:
    return (one.pid, one.transaction)


def is_refusal(exc: psycopg.Error) -> bool:
    """Tell what may be tried again: a lock that was not to be had (55P03), a deadlock (40P01)."""
    return isinstance(exc, _REFUSED)


def small(connection: psycopg.Connection[Any], works: Sequence[Classified], limits: Limits) -> bool:
    """Tell whether all that the statements work on is so small that nobody notices."""
    names = {task.table for one in works for task in one.effect.work}
    query: LiteralString = """
    SELECT coalesce(max(pg_catalog.pg_total_relation_size(c.oid)), 0)
      FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) AS named (place, name)
      JOIN pg_catalog.pg_namespace n ON n.nspname = named.place
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = named.name
    """
    if not names:
        return False
    with suppress(errors.LockNotAvailable), looking(connection) as cursor:
        cursor.execute("SET LOCAL lock_timeout = '200ms'", prepare=False)
        row = cursor.execute(query, ([n.schema or "public" for n in names], [n.name for n in names])).fetchone()
        return row is not None and int(row[0]) <= limits.small_bytes
    return False
