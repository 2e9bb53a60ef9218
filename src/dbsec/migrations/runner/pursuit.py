"""The chase of a statement's locks over many turns: who refused, who is told, when to wait and when to give up."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, LiteralString

import psycopg
from psycopg import errors, sql
from psycopg.rows import tuple_row

from dbsec.clock import Clock
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.runner import failures
from dbsec.migrations.runner.blockers import Blocker, holding, looking
from dbsec.migrations.runner.limits import Limits
from dbsec.migrations.runner.locking import Target, lock

Told = Callable[[Sequence[Blocker]], None]
_SUX = LockMode.SHARE_UPDATE_EXCLUSIVE
_LOOK_S = 1.0  # pg_locks is read by all its partitions: not at each turn
# An error that a handler catches is not logged: thousands of turns would fill the server's log. A DO takes a snapshot.
_QUIETLY: LiteralString = """
BEGIN
  {locks};
EXCEPTION WHEN lock_not_available THEN
  PERFORM pg_catalog.set_config('dbsec.refused', SQLERRM, true);
END
"""
_REFUSAL: LiteralString = "SELECT pg_catalog.current_setting('dbsec.refused', true)"
_PLPGSQL: LiteralString = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_language
                WHERE lanname = 'plpgsql' AND pg_catalog.has_language_privilege(oid, 'USAGE'))
"""
_CANCEL: LiteralString = """
SELECT CASE WHEN %(end)s THEN pg_catalog.pg_terminate_backend(%(pid)s) ELSE pg_catalog.pg_cancel_backend(%(pid)s) END
 WHERE EXISTS (SELECT FROM pg_catalog.pg_locks
                WHERE pid = %(pid)s AND virtualtransaction = %(transaction)s AND granted)
"""


class NotYet(Exception):
    """A turn that did not get its locks."""


@dataclass(slots=True)
class Pursuit:
    """The chase of one statement's locks over many turns: who refused, whether to wait a little, when to give up."""

    connection: psycopg.Connection[Any]
    what: str
    found: list[Target]
    limits: Limits
    clock: Clock
    told: Told | None = None
    quiet: bool = True
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
        with looking(self.connection) as cursor:
            row = cursor.execute(_PLPGSQL).fetchone()
            self.quiet = self.quiet and row is not None and bool(row[0])

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

    def take(self, opening: bytes, own: str) -> None:
        """Begin a turn and take its locks in one message, so that nobody waits for our network between two of them.

        ``opening``: BEGIN and what is set; ``own``: the lock_timeout of what comes after. Errors: ``NotYet``.
        """
        self.attempts += 1
        locks = sql.SQL(";\n  ").join(self._taking(own))
        if not locks.as_string(self.connection):
            self.connection.execute(opening, prepare=False)
        elif not self.quiet:
            self.connection.execute(opening + b"; " + locks.as_bytes(self.connection), prepare=False)
        else:
            body = sql.SQL(_QUIETLY).format(locks=locks).as_string(self.connection)
            made = sql.SQL("; DO {}; {}").format(sql.Literal(body), sql.SQL(_REFUSAL)).as_bytes(self.connection)
            with self.connection.cursor(row_factory=tuple_row) as cursor:
                cursor.execute(opening + made, prepare=False)
                while cursor.nextset():
                    pass
                row = cursor.fetchone()
            if row is not None and row[0]:
                raise NotYet(row[0])

    def _taking(self, own: str) -> list[sql.Composable]:
        """Write the LOCK TABLEs of a turn.

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
        named = [f'"{one.name.schema}.{one.name.name}"' for one in self.found]  # as PostgreSQL says it, unquoted
        at = next((n for n, name in enumerate(named) if name in message), None)
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


def _timeout(value: int | str) -> sql.Composed:
    return sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(value))
