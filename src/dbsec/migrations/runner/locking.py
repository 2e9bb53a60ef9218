"""Takes the locks of a statement by NOWAIT, again and again, so that nobody ever queues behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
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


def statement(found: Sequence[Target], *, nowait: bool) -> sql.Composed:
    """Write LOCK TABLE for those that it can take, each without its children: they are targets of their own."""
    made = [
        sql.SQL("LOCK TABLE ONLY {} IN {} MODE{}").format(
            sql.Identifier(one.name.schema or "public", one.name.name),
            sql.SQL(_MODE_WORDS[one.mode]),
            sql.SQL(" NOWAIT" if nowait else ""),
        )
        for one in found
        if one.lockable
    ]
    return sql.SQL("; ").join(made)


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

    def clear(self) -> bool:
        """Tell whether a turn may begin: what LOCK TABLE cannot take is tried only while no other session holds it."""
        unlockable = [(one.oid, one.mode) for one in self.found if not one.lockable]
        if not unlockable:
            return True
        self.last = holding(self.connection, unlockable)
        return not self.last

    def wait_ms(self) -> int:
        """Tell how long the LOCK of this turn may wait: 0 is NOWAIT; more only where no old transaction holds it."""
        if self._step < 0:
            return 0
        steps = self.limits.escalation_ms
        return steps[min(self._step, len(steps) - 1)]

    def refused(self, name_in: str = "") -> None:
        """Note that a turn failed, tell who stands in the way, and pause. Errors: ``LockNotTaken`` at the end."""
        self._first_in_turn(name_in)
        now = self.clock.monotonic()
        if now - self._looked >= _LOOK_S:
            self._look(now)
        if now - self._began >= self.limits.give_up_s:
            self.last = holding(self.connection, self._wanted()) or self.last
            raise failures.not_taken(self.what, now - self._began, self.last)
        self.clock.sleep(self.limits.poll_ms / 1000)

    def _wanted(self) -> list[tuple[int, LockMode]]:
        return [(one.oid, one.mode) for one in self.found]

    def _first_in_turn(self, message: str) -> None:
        """Put the relation that refused first, so that the others are not even locked while it refuses."""
        at = next((n for n, one in enumerate(self.found) if f'"{one.name.name}"' in message), None)
        if at:
            self.found.insert(0, self.found.pop(at))

    def _look(self, now: float) -> None:
        self._looked = now
        self.last = holding(self.connection, self._wanted())
        old = [one for one in self.last if self._age_s(one, now) * 1000 >= self.limits.old_ms]
        self._seen = {key: since for key, since in self._seen.items() if key in {_key(one) for one in self.last}}
        if old:
            self._young_since, self._step = now, -1
            if self.told is not None:
                self.told(old)
            if self.limits.cancel_blockers and now - self._began >= self.limits.cancel_after_s:
                self._cancel(old)
        elif now - self._young_since >= self.limits.starving_s:
            self._step += 1

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
