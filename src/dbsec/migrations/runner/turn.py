"""The turns of one statement or block: a transaction that has all its locks at once, or is over at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from dbsec.clock import Clock
from dbsec.errors import UsageError
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name
from dbsec.migrations.runner import failures, locking, session, timeouts
from dbsec.migrations.runner.blockers import Blocker
from dbsec.migrations.runner.classify import Classified, Kind, blocks_together
from dbsec.migrations.runner.limits import Limits
from dbsec.migrations.runner.pursuit import NotYet, Pursuit, Told
from dbsec.progress import Progress

Around = Callable[[], AbstractContextManager[object]]
_CHASED = (Kind.SHORT, Kind.BLOCKING)
_ENDS = ("TRANS_STMT_COMMIT", "TRANS_STMT_ROLLBACK", "TRANS_STMT_PREPARE")
_BEGINS = ("TRANS_STMT_BEGIN", "TRANS_STMT_START")
_LONGEST_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Ran:
    """``seconds``: the statement itself. ``waited_s``: before it. ``turns``: transactions in which it began;
    ``lock_attempts``: turns, those that got no lock too. ``held_s``: how long its locks were held. ``already``: what it
    does was there, and nothing was run. ``repaired``: what an earlier run had left."""

    seconds: float
    waited_s: float = 0.0
    turns: int = 1
    lock_attempts: int = 0
    held_s: float = 0.0
    cancelled: tuple[Blocker, ...] = ()
    repaired: tuple[str, ...] = ()
    already: bool = False


@dataclass(slots=True)
class Run:
    """One statement, or the statements of one block, on a session of the server's ``major``."""

    connection: psycopg.Connection[Any]
    parts: Sequence[Classified]
    limits: Limits
    around: Around
    told: Told | None
    progress: Progress
    clock: Clock
    major: int
    _begin: str = "BEGIN"
    _end: str = "COMMIT"
    body: list[Classified] = field(default_factory=list)
    at: Classified | None = None
    _locked: bool = False
    committing: bool = False
    turns: int = 0

    # --- in a transaction

    def chase(self) -> Ran:
        """Run in a transaction, in as many turns as it takes. Errors: those of ``execute``."""
        self._read_block()
        self.allowed()
        pursuit = self.pursuit()
        chased = any(one.kind in _CHASED for one in self.body)
        tries = deadlocks = 0
        while True:
            if chased and not pursuit.clear():
                pursuit.refused()
                continue
            try:
                return self._turn(pursuit, chased=chased)
            except NotYet as exc:
                pursuit.refused(str(exc))
            except psycopg.Error as exc:
                self.ended(exc)
                if not locking.is_refusal(exc):
                    raise failures.failed(exc, self.place) from None
                tries += 1
                deadlocks += exc.sqlstate == "40P01"
                if deadlocks > self.limits.retries:
                    raise failures.failed(exc, self.place) from None
                pursuit.refused(str(exc.diag.message_primary), pause_s=self.pause_s(tries) if self._locked else None)

    def _turn(self, pursuit: Pursuit, *, chased: bool) -> Ran:
        self._locked = False
        self.at = self.body[0] if self.body else self.parts[0]
        self._open(pursuit, chased=chased)
        self._locked = True
        self.turns += 1
        waited, taken = pursuit.waited_s, self.clock.monotonic()
        try:
            with self.around():
                began = self.clock.monotonic()
                try:
                    self._statements(felt=chased or None)
                except BaseException:
                    self._roll_back()
                    raise
                seconds = self.clock.monotonic() - began
            self._commit()
        except BaseException:
            self._roll_back()
            raise
        held = self.clock.monotonic() - taken
        return Ran(seconds, waited, self.turns, pursuit.attempts, held, tuple(pursuit.cancelled))

    def _open(self, pursuit: Pursuit, *, chased: bool) -> None:
        assert self.at is not None
        settings = timeouts.of(self.at, self.limits, felt=chased or None).settings(self.major)
        opening = self._begin.encode() + b"; " + session.set_local(settings).as_bytes(self.connection)
        try:
            if chased:
                pursuit.take(opening, settings["lock_timeout"])
            else:
                self.connection.execute(opening, prepare=False)
        except BaseException:
            self._roll_back()
            raise

    def _statements(self, *, felt: bool | None) -> None:
        for number, one in enumerate(self.body):
            self.at = one
            if number:
                settings = timeouts.of(one, self.limits, felt=felt).settings(self.major)
                self.connection.execute(session.set_local(settings), prepare=False)
            session.need_utf8(self.connection)
            self.connection.execute(one.statement.text.encode(), prepare=False)

    def _commit(self) -> None:
        if self.connection.info.transaction_status is not TransactionStatus.INTRANS:
            raise failures.StatementFailed(
                f"'{self.place}': its transaction was ended or broken by what ran beside it",
                sqlstate="25P02",
                place=self.place,
            )
        self.committing = True
        self.connection.execute(self._end.encode(), prepare=False)
        self.committing = False

    def _roll_back(self) -> None:
        if self.connection.closed or self.connection.info.transaction_status is TransactionStatus.IDLE:
            return
        try:
            self.connection.execute("ROLLBACK", prepare=False)
        except psycopg.OperationalError:
            return  # it went with the session

    # --- what both need

    @property
    def place(self) -> str:
        return (self.at or self.parts[0]).place

    def _read_block(self) -> None:
        first, last = self.parts[0].statement, self.parts[-1].statement
        begins = first.node.get("kind") in _BEGINS and first.kind == "TransactionStmt"
        ends = last.node.get("kind") in _ENDS and last.kind == "TransactionStmt"
        if begins and not ends:
            raise UsageError(f"'{self.parts[0].place}': BEGIN without COMMIT", hint="end the block in the same file")
        self._begin = first.text if begins else "BEGIN"
        if ends and last.node["kind"] != "TRANS_STMT_COMMIT":
            self._end = last.text
        self.body = list(self.parts[begins : len(self.parts) - ends])
        alone = next((one for one in self.body if one.alone or one.effect.fails.endswith(failures.ALONE)), None)
        if alone is not None:
            raise failures.StatementFailed(
                f"'{alone.place}': it {failures.ALONE} (25001)",
                sqlstate="25001",
                place=alone.place,
                hint="put it in a file of its own, outside BEGIN … COMMIT",
            )

    def allowed(self) -> None:
        """Refuse what blocks for as long as it works, unless it was allowed or the tables are small."""
        if self.limits.allow_blocking:
            return
        why = next((f"'{one.place}': {one.why}" for one in self.parts if one.kind is Kind.BLOCKING), "")
        why = why or (blocks_together(self.body) if len(self.body) > 1 else "")
        if why and not locking.small(self.connection, self.body, self.limits):
            path = self.parts[0].statement.script.path
            hint = f"write it as 'dbsec migrate lint {path}' says; or allow_blocking, in a maintenance window"
            raise failures.BlockingRefused(why, hint=hint)

    def pursuit(self) -> Pursuit:
        locks: dict[Name, LockMode] = {}
        for name, mode in (lock for one in self.body for lock in one.locks):
            locks[name] = max(mode, locks.get(name, mode))
        found = locking.targets(self.connection, locks.items())
        what = ", ".join(f"{one.mode.sql} on '{one.name}'" for one in found[:3]) or "a lock that was not foretold"
        # a DO takes a snapshot, and after one the isolation level stays what it is
        quiet = not any(one.statement.kind == "VariableSetStmt" for one in self.body)
        return Pursuit(self.connection, f"'{self.place}': {what}", found, self.limits, self.clock, self.told, quiet)

    def pause_s(self, tries: int) -> float:
        longest = min(self.limits.poll_ms / 1000 * 2.0 ** min(tries, 10), _LONGEST_PAUSE_S)
        return random.uniform(longest / 2, longest)

    def ended(self, exc: psycopg.Error) -> None:
        """Raise ``ConnectionLost`` where the session is gone."""
        if self.connection.closed or self.connection.broken:
            raise failures.lost(exc, self.place, applied=None if self.committing else False) from None
        self.committing = False
