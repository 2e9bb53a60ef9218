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
from dbsec.migrations.runner.blockers import Blocker, holding
from dbsec.migrations.runner.classify import Classified, Kind, blocks_together
from dbsec.migrations.runner.invalid import Care
from dbsec.migrations.runner.limits import Limits
from dbsec.migrations.runner.locking import Pursuit, Told
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
    _body: list[Classified] = field(default_factory=list)
    _at: Classified | None = None
    _locked: bool = False
    _committing: bool = False
    _turns: int = 0

    # --- in a transaction

    def chase(self) -> Ran:
        """Run in a transaction, in as many turns as it takes. Errors: those of ``execute``."""
        self._read_block()
        self._allowed()
        pursuit = self._pursuit()
        chased = any(one.kind in _CHASED for one in self._body)
        tries = 0
        while True:
            if chased and not pursuit.clear():
                pursuit.refused()
                continue
            try:
                return self._turn(pursuit, chased=chased)
            except psycopg.Error as exc:
                self._ended(exc)
                if not locking.is_refusal(exc):
                    raise failures.failed(exc, self._place) from None
                tries += self._locked and (exc.sqlstate == "40P01" or not chased)
                if tries > self.limits.retries:
                    raise self._exhausted(exc, pursuit) from None
                pursuit.refused(str(exc.diag.message_primary), pause_s=self._pause_s(tries) if self._locked else None)

    def _turn(self, pursuit: Pursuit, *, chased: bool) -> Ran:
        self._locked = False
        self._at = self._body[0] if self._body else self.parts[0]
        pursuit.attempts += 1
        self._open(pursuit, chased=chased)
        self._locked = True
        self._turns += 1
        waited, taken = pursuit.waited_s, self.clock.monotonic()
        try:
            with self.around():
                began = self.clock.monotonic()
                try:
                    self._statements()
                except BaseException:
                    self._roll_back()
                    raise
                seconds = self.clock.monotonic() - began
            self._commit()
        except BaseException:
            self._roll_back()
            raise
        held = self.clock.monotonic() - taken
        return Ran(seconds, waited, self._turns, pursuit.attempts, held, tuple(pursuit.cancelled))

    def _open(self, pursuit: Pursuit, *, chased: bool) -> None:
        """Begin and take the locks in one message: between two of them nobody waits for our network."""
        one = self._at
        assert one is not None
        settings = timeouts.of(one, self.limits).settings(self.major)
        opened = [self._begin.encode(), session.set_local(settings).as_bytes(self.connection)]
        if chased:
            opened += [part.as_bytes(self.connection) for part in pursuit.taking(settings["lock_timeout"])]
        try:
            self.connection.execute(b"; ".join(part for part in opened if part), prepare=False)
        except BaseException:
            self._roll_back()
            raise

    def _statements(self) -> None:
        for number, one in enumerate(self._body):
            self._at = one
            if number:
                settings = timeouts.of(one, self.limits).settings(self.major)
                self.connection.execute(session.set_local(settings), prepare=False)
            self.connection.execute(one.statement.text.encode(), prepare=False)

    def _commit(self) -> None:
        if self.connection.info.transaction_status is not TransactionStatus.INTRANS:
            raise failures.StatementFailed(
                f"'{self._place}': its transaction was ended or broken by what ran beside it",
                sqlstate="25P02",
                place=self._place,
            )
        self._committing = True
        self.connection.execute(self._end.encode(), prepare=False)
        self._committing = False

    def _roll_back(self) -> None:
        if self.connection.closed or self.connection.info.transaction_status is TransactionStatus.IDLE:
            return
        try:
            self.connection.execute("ROLLBACK", prepare=False)
        except psycopg.OperationalError:
            return  # it went with the session

    # --- outside a transaction

    def plain(self) -> Ran:
        """Run a statement for the session as it stands there."""
        self._at = one = self.parts[0]
        began = self.clock.monotonic()
        try:
            with self.around():
                self.connection.execute(one.statement.text.encode(), prepare=False)
        except psycopg.Error as exc:
            self._ended(exc)
            raise failures.failed(exc, one.place) from None
        return Ran(self.clock.monotonic() - began)

    def alone(self, *, again: bool) -> Ran:
        """Run a statement that PostgreSQL refuses in a transaction."""
        self._at = one = self.parts[0]
        self._body = [one]
        self._allowed()
        care = Care(self.connection, one, again, self._until_free)
        pursuit = self._pursuit()
        settings = timeouts.of(one, self.limits).settings(self.major)
        self._committing = True
        try:
            with session.holding(self.connection, settings):
                care.before()
                with self.around():
                    ran = Ran(0.0, already=True, turns=0) if care.already else self._outside(one, care, pursuit)
                    care.after()
        except psycopg.Error as exc:
            self._ended(exc)
            raise failures.failed(exc, one.place) from None
        return ran

    def _outside(self, one: Classified, care: Care, pursuit: Pursuit) -> Ran:
        text, tries = (care.instead or one.statement.text).encode(), 0
        while True:
            while one.kind is not Kind.CONCURRENT and not pursuit.clear(all_of_them=True):
                pursuit.refused()
            self._turns += 1
            waited, began = pursuit.waited_s, self.clock.monotonic()
            try:
                self.connection.execute(text, prepare=False)
            except psycopg.Error as exc:
                self._ended(exc)
                left = care.failed()
                tries += 1
                if one.statement.kind in ("DoStmt", "CallStmt") or not locking.is_refusal(exc):
                    raise failures.failed(exc, one.place, hint=left) from None
                if tries > self.limits.retries:
                    raise self._exhausted(exc, pursuit) from None
                pursuit.refused(pause_s=self._pause_s(tries))
                continue
            seconds = self.clock.monotonic() - began
            return Ran(
                seconds, waited, self._turns, self._turns, seconds, tuple(pursuit.cancelled), tuple(care.repaired)
            )

    def _until_free(self, table: int) -> None:
        """Wait until nobody else builds or drops an index on a table; PostgreSQL itself ends an autovacuum."""
        wanted = [(table, LockMode.SHARE_UPDATE_EXCLUSIVE)]
        began = told = self.clock.monotonic()
        while found := [one for one in holding(self.connection, wanted) if not one.autovacuum and one.granted]:
            now = self.clock.monotonic()
            if now - began >= self.limits.give_up_s:
                raise failures.not_taken(f"'{self._place}': its table", now - began, found)
            if self.told is not None and now - told >= 1:
                told = now
                self.told(found)
            self.clock.sleep(self.limits.poll_ms / 1000 * 5)

    # --- what both need

    @property
    def _place(self) -> str:
        return (self._at or self.parts[0]).place

    def _read_block(self) -> None:
        first, last = self.parts[0].statement, self.parts[-1].statement
        begins = first.node.get("kind") in _BEGINS and first.kind == "TransactionStmt"
        ends = last.node.get("kind") in _ENDS and last.kind == "TransactionStmt"
        if begins and not ends:
            raise UsageError(f"'{self.parts[0].place}': BEGIN without COMMIT", hint="end the block in the same file")
        self._begin = first.text if begins else "BEGIN"
        if ends and last.node["kind"] != "TRANS_STMT_COMMIT":
            self._end = last.text
        self._body = list(self.parts[begins : len(self.parts) - ends])
        alone = next((one for one in self._body if one.alone or one.effect.fails.endswith(failures.ALONE)), None)
        if alone is not None:
            raise failures.StatementFailed(
                f"'{alone.place}': it {failures.ALONE} (25001)",
                sqlstate="25001",
                place=alone.place,
                hint="put it in a file of its own, outside BEGIN … COMMIT",
            )

    def _allowed(self) -> None:
        """Refuse what blocks for as long as it works, unless it was allowed or the tables are small."""
        if self.limits.allow_blocking:
            return
        why = next((f"'{one.place}': {one.why}" for one in self.parts if one.kind is Kind.BLOCKING), "")
        why = why or (blocks_together(self._body) if len(self._body) > 1 else "")
        if why and not locking.small(self.connection, self._body, self.limits):
            path = self.parts[0].statement.script.path
            hint = f"write it as 'dbsec migrate lint {path}' says; or allow_blocking, in a maintenance window"
            raise failures.BlockingRefused(why, hint=hint)

    def _pursuit(self) -> Pursuit:
        locks: dict[Name, LockMode] = {}
        for name, mode in (lock for one in self._body for lock in one.locks):
            locks[name] = max(mode, locks.get(name, mode))
        found = locking.targets(self.connection, locks.items())
        what = ", ".join(f"{one.mode.sql} on '{one.name}'" for one in found[:3]) or "its lock"
        return Pursuit(self.connection, f"'{self._place}': {what}", found, self.limits, self.clock, self.told)

    def _pause_s(self, tries: int) -> float:
        longest = min(self.limits.poll_ms / 1000 * 2.0 ** min(tries, 10), _LONGEST_PAUSE_S)
        return random.uniform(longest / 2, longest)

    def _ended(self, exc: psycopg.Error) -> None:
        """Raise ``ConnectionLost`` where the session is gone."""
        if self.connection.closed or self.connection.broken:
            raise failures.lost(exc, self._place, applied=None if self._committing else False) from None
        self._committing = False

    def _exhausted(self, exc: psycopg.Error, pursuit: Pursuit) -> Exception:
        if exc.sqlstate == "40P01":
            return failures.failed(exc, self._place)
        return failures.not_taken(pursuit.what, pursuit.waited_s, pursuit.look())
