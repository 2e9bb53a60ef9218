"""Runs one revision until its locks were to be had: its transaction goes back and begins again, and never waits."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from dbsec import log
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ApplyError, UsageError
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name
from dbsec.migrations.revisions.done import Done
from dbsec.migrations.revisions.statements import Statements, only_reads
from dbsec.migrations.revisions.turn import RETRIED, Refused, Turn, chase
from dbsec.migrations.runner import session, timeouts
from dbsec.migrations.runner.blockers import blockers
from dbsec.migrations.runner.classify import Classified, Kind
from dbsec.migrations.runner.execute import Connect, execute
from dbsec.migrations.runner.failures import not_taken
from dbsec.migrations.runner.limits import Limits
from dbsec.migrations.runner.pursuit import Told
from dbsec.migrations.script import Script
from dbsec.progress import Progress, Silent

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

_LONGEST_PAUSE_S = 1.0
_BY_DEFAULT = (Kind.ROWS, Kind.SESSION)  # SQLAlchemy executes these itself in autocommit: they may give rows


@dataclass
class Machine:
    """What every revision of a run shares. ``raw`` is psycopg's connection under that of ``context``."""

    context: MigrationContext
    raw: psycopg.Connection[Any]
    limits: Limits
    watch: Connect
    told: Told | None = None
    progress: Progress = field(default_factory=Silent)
    clock: Clock = SYSTEM

    def begin(self) -> None:
        """Begin Alembic's transaction."""
        assert self.context.connection is not None
        self.context._transaction = self.context.connection.begin()

    def commit(self) -> None:
        """Commit Alembic's transaction."""
        assert self.context._transaction is not None
        self.context._transaction.commit()
        self.context._transaction = None

    def rollback(self) -> None:
        """Roll all back, whatever is open."""
        assert self.context.connection is not None
        self.context._transaction = None
        self.context.connection.rollback()
        self.raw.rollback()


class Revision:
    """One ``upgrade()`` or ``downgrade()`` while it runs; ``on`` is called for each statement that SQLAlchemy sends."""

    def __init__(self, machine: Machine, path: str, done: Done, script: Script | None) -> None:
        self._machine = machine
        self._path = path
        self._done = done
        self._began = machine.clock.monotonic()
        self._pause = machine.limits.poll_ms / 1000
        self._active = False
        self._script = script  # what the linter has read of it, which tells its locks in time
        self._anew({})

    def run(self, act: Callable[[], None]) -> None:
        """Run it until nothing was refused; Alembic's transaction is open afterwards, with all of it inside.

        Errors: ``LockNotTaken`` in the end; ``BlockingRefused``; what the revision and the server say.
        """
        while True:
            refused = self._attempt(act)
            if refused is None:
                self._done.forget()
                return
            self._machine.rollback()
            self._wait(refused)
            self._anew(refused.wanted)

    def _attempt(self, act: Callable[[], None]) -> Refused | None:
        self._active = True
        try:
            act()
        except Refused as refused:
            return refused
        except Exception as exc:
            cause = getattr(exc, "orig", exc)
            state = getattr(cause, "sqlstate", None)
            if state not in RETRIED:
                raise
            return self._turn.refused or Refused(self._path, self._turn.held, foretold=False)
        finally:
            self._active = False
        return self._turn.refused

    def _wait(self, refused: Refused) -> None:
        machine = self._machine
        waited = machine.clock.monotonic() - self._began
        if waited > machine.limits.give_up_s:
            who = blockers(machine.raw, list(refused.wanted.items()))
            raise not_taken(f"'{refused.place}': a lock", waited, who)
        if not refused.foretold:  # only a new attempt can tell when it is free
            machine.clock.sleep(random.uniform(self._pause / 2, self._pause))
            self._pause = min(self._pause * 2, _LONGEST_PAUSE_S)

    def _anew(self, wanted: Mapping[Name, LockMode]) -> None:
        machine = self._machine
        machine.rollback()
        self._done.restart()
        machine.raw.rollback()
        self._statements = Statements.of(self._path, machine.raw)
        self._turn = Turn(machine.raw, machine.limits, self._statements.major)
        machine.begin()
        wanted = {**self._statements.foretold(self._script), **wanted}
        if wanted:
            chase(machine.raw, self._path, wanted, machine.limits, machine.clock, machine.told)
            self._turn.held |= {name: mode for name, mode in wanted.items() if mode.blocks_writes}

    # --- statements

    def on(self, text: str, run: Callable[[], None], *, plain: bool) -> bool:
        """Judge one call; True where it was executed. ``plain``: it has no parameters; ``run`` executes it."""
        if not self._active:
            return False
        raw = self._machine.raw
        parts = self._statements.read(text)
        settings = bool(parts) and all(one.kind is Kind.SESSION for one in parts)
        if not (settings or only_reads(parts)) and self._done.passes_over(text):
            self._machine.progress.step(f"{self._path}: was applied before: {_shown(text)}")
            return True
        if raw.autocommit:
            return self._in_autocommit(parts, run, plain=plain)
        if any(one.alone for one in parts):
            self._outside(parts)
            return True
        self._turn.prepare(parts)
        return False

    def _in_autocommit(self, parts: list[Classified], run: Callable[[], None], *, plain: bool) -> bool:
        if any(one.kind is Kind.TRANSACTION for one in parts):
            raise UsageError(f"'{parts[0].place}' begins or ends a transaction in an autocommit block")
        if only_reads(parts) or (parts and parts[0].kind is Kind.SESSION):
            return False
        itself = [one for one in parts if one.kind not in _BY_DEFAULT]
        if len(parts) > 1 and itself:
            raise UsageError(f"'{parts[0].place}' sends several statements in an autocommit block", hint="one a call")
        if itself and plain:
            self._alone(itself[0])
            return True
        settings = timeouts.of(parts[-1], self._machine.limits).settings(self._statements.major) if parts else {}
        with session.holding(self._machine.raw, settings), self._done.around()():
            run()
        self._done.committed()
        return True

    def _outside(self, parts: list[Classified]) -> None:
        """Run what PostgreSQL refuses in a transaction: what came before is committed, as an autocommit block does."""
        machine = self._machine
        assert machine.context.connection is not None
        if len(parts) != 1 or machine.context.connection.in_nested_transaction():
            raise UsageError(f"'{parts[0].place}' runs outside a transaction", hint="send it alone, in no savepoint")
        name = self._done.take_back()
        if self._done.pending and not self._done.lasting:
            raise ApplyError(
                f"'{parts[0].place}' runs outside a transaction, and what stands before it would be committed halfway",
                hint="a revision of its own for it; or dbsec db install, which remembers how far a revision came",
            )
        with self._between():
            machine.commit()
        self._done.give_back(name)
        machine.raw.autocommit = True
        try:
            self._alone(parts[0])
        finally:
            machine.raw.autocommit = False
            machine.begin()

    def _alone(self, one: Classified) -> None:
        machine = self._machine
        execute(
            machine.raw,
            one,
            machine.limits,
            around=self._done.around(),
            told=machine.told,
            progress=machine.progress,
            clock=machine.clock,
            watch=machine.watch,
            again=self._done.interrupted(),
        )
        self._done.committed()

    @contextmanager
    def _between(self) -> Iterator[None]:
        """Record the statements of a transaction that is committed in here."""
        self._done.record()
        yield
        self._done.committed()
        self._turn = Turn(self._machine.raw, self._machine.limits, self._statements.major)

    @contextmanager
    def autocommit_block(self, original: Callable[[], Any]) -> Iterator[None]:
        """Stand in for Alembic's ``autocommit_block``: the same, and what it commits is recorded."""
        if self._turn.refused is not None:
            raise self._turn.refused
        block = original()
        with self._between():
            block.__enter__()
        try:
            yield
        except BaseException as exc:
            block.__exit__(type(exc), exc, exc.__traceback__)
            raise
        block.__exit__(None, None, None)


def _shown(text: str) -> str:
    return log.Redactor().redact(" ".join(text.split())[:60])
