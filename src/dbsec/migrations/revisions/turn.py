"""One transaction of a revision: the locks that it holds, and what each further statement may wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import errors, sql

from dbsec.clock import Clock
from dbsec.errors import UsageError
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name
from dbsec.migrations.runner import locking, session, timeouts
from dbsec.migrations.runner.blockers import holding
from dbsec.migrations.runner.classify import Classified, Kind, blocks_together
from dbsec.migrations.runner.failures import BlockingRefused
from dbsec.migrations.runner.limits import Limits
from dbsec.migrations.runner.pursuit import NotYet, Pursuit, Told

RETRIED = ("55P03", "40P01")
_OUTSIDE = "with op.get_context().autocommit_block(): around it"


class Refused(Exception):
    """A lock was not to be had at once: the transaction goes back, and begins again with the locks ``wanted``.

    ``foretold`` is False where the server refused something else than those.
    """

    def __init__(self, place: str, wanted: Mapping[Name, LockMode], *, foretold: bool = True) -> None:
        super().__init__(f"{place}: a lock is not to be had yet; the revision begins again")
        self.place = place
        self.wanted = dict(wanted)
        self.foretold = foretold


@dataclass
class Turn:
    """``held``: locks that others may wait for. ``refused`` is kept, so that a revision cannot swallow it."""

    raw: psycopg.Connection[Any]
    limits: Limits
    major: int
    held: dict[Name, LockMode] = field(default_factory=dict)
    block: list[Classified] = field(default_factory=list)
    refused: Refused | None = None

    def prepare(self, parts: Sequence[Classified]) -> None:
        """Take the locks of the next call and set its timeouts, in the transaction.

        Errors: ``Refused`` where a lock is not to be had at once; ``BlockingRefused``; ``UsageError`` for COMMIT.
        """
        if self.refused is not None:
            raise self.refused
        for one in parts:
            if one.kind is Kind.TRANSACTION:
                raise UsageError(f"'{one.place}' ends Alembic's own transaction", hint=_OUTSIDE)
            self._must_not_block(one)
            self.block.append(one)
        wanted = self._wanted(parts)
        if wanted:
            self._lock(parts[0].place, wanted)
        for one in parts[-1:]:
            self._limit(one)

    def _wanted(self, parts: Sequence[Classified]) -> dict[Name, LockMode]:
        wanted: dict[Name, LockMode] = {}
        for name, mode in (lock for one in parts for lock in one.locks):
            # who holds what others wait for must not wait for anybody himself
            if (mode.blocks_writes or self.held) and self.held.get(name, 0) < mode:
                wanted[name] = max(mode, wanted.get(name, mode))
        return wanted

    def _must_not_block(self, one: Classified) -> None:
        if self.limits.allow_blocking:
            return
        why = one.why if one.kind is Kind.BLOCKING else blocks_together([*self.block, one])
        if why and not locking.small(self.raw, [*self.block, one], self.limits):
            rule = why.partition(" ")[0]
            hint = f"dbsec migrate rules {rule}" if rule.startswith("MIG") else "split the revision: each step its own"
            raise BlockingRefused(f"'{one.place}' is not run: {why}", hint=hint)

    def _lock(self, place: str, wanted: Mapping[Name, LockMode]) -> None:
        found = locking.targets(self.raw, wanted.items())
        try:
            if holding(self.raw, [(one.oid, one.mode) for one in found if not one.lockable]):
                raise self._refuse(place, wanted)
            _send(self.raw, [locking.lock(one, nowait=True) for one in found if one.lockable])
        except (errors.LockNotAvailable, errors.DeadlockDetected) as exc:
            raise self._refuse(place, wanted) from exc
        self.held |= {name: mode for name, mode in wanted.items() if mode.blocks_writes}

    def _refuse(self, place: str, wanted: Mapping[Name, LockMode]) -> Refused:
        self.refused = Refused(place, {**self.held, **wanted})
        return self.refused

    def _limit(self, one: Classified) -> None:
        told = timeouts.of(one, self.limits)
        if self.held:
            waits = min(told.lock_ms or self.limits.own_wait_ms, self.limits.own_wait_ms)
            told = replace(told, lock_ms=waits)
        else:
            told = replace(told, idle_ms=0)  # Python may think as long as nobody waits for it
        self.raw.execute(session.set_local(told.settings(self.major)))


def chase(
    raw: psycopg.Connection[Any],
    place: str,
    wanted: Mapping[Name, LockMode],
    limits: Limits,
    clock: Clock,
    told: Told | None,
) -> None:
    """Take all locks in a new transaction, by NOWAIT turns that are rolled back whole; the last one stays open.

    Errors: ``LockNotTaken`` naming who holds them.
    """
    found = locking.targets(raw, wanted.items())
    raw.rollback()
    pursuit = Pursuit(raw, f"'{place}': the locks", found, limits, clock, told)
    own = f"{limits.own_wait_ms}ms"
    opening = session.set_local({"lock_timeout": own, "statement_timeout": f"{limits.short_s}s"}).as_bytes(raw)
    while True:
        said = ""
        if pursuit.clear():
            try:
                pursuit.take(opening, own)
                return
            except (NotYet, errors.LockNotAvailable, errors.DeadlockDetected) as exc:
                said = str(exc)
        raw.rollback()
        pursuit.refused(said)


def _send(raw: psycopg.Connection[Any], parts: Sequence[sql.Composable]) -> None:
    """Send them as one message: between two of them nobody waits for our network."""
    if parts:
        raw.execute(b"; ".join(part.as_bytes(raw) for part in parts), prepare=False)
