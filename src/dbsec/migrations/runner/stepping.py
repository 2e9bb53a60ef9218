"""One file, statement after statement: each is recorded in its own transaction, so that a killed run goes on there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from msgspec.structs import replace

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ApplyError, UsageError
from dbsec.journal import Journal, Observer, PostgresStore
from dbsec.migrations.reading import lexer
from dbsec.migrations.reading.parse import parse
from dbsec.migrations.runner import refusing, session
from dbsec.migrations.runner.blockers import Blocker
from dbsec.migrations.runner.classify import Classified, Kind, bodies_of, classify, turns
from dbsec.migrations.runner.execute import Ran, execute, execute_together
from dbsec.migrations.runner.files import FileKind, Migration, script_of
from dbsec.migrations.runner.limits import Limits
from dbsec.migrations.runner.pursuit import Told
from dbsec.migrations.runner.words import shown
from dbsec.migrations.schema.catalog import from_catalog
from dbsec.migrations.script import Script
from dbsec.migrations.statement import Origin, Statement
from dbsec.progress import Progress, Silent

Connect = Callable[[], psycopg.Connection[Any]]

# What a file has SET must not reach the next one; a role that the login sets by itself comes back.
_RESETS: tuple[LiteralString, ...] = ("RESET SESSION AUTHORIZATION", "RESET ROLE", "RESET ALL")
_PATIENCE_S = 10.0  # for the backend of a runner that was killed to notice it


@dataclass(frozen=True, slots=True)
class Turn:
    """Statements that run together, and their name in the journal: the place in the file, and a digest of the text."""

    name: str
    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Did:
    """What was run of one turn; ``line`` is that of its first statement."""

    line: int
    what: str
    kind: Kind
    ran: Ran


@dataclass(frozen=True)
class Machine:
    """What runs files: the session, its limits, and who is told."""

    connection: psycopg.Connection[Any]
    connect: Connect
    limits: Limits
    progress: Progress = field(default_factory=Silent)
    clock: Clock = SYSTEM
    observer: Observer | None = None

    def run(self, script: Script, job: str) -> list[Did]:
        """Run what the journal of ``job`` does not have yet.

        Locks: an advisory one for the journal; else those of each statement. Errors: those of ``execute``;
        ``ApplyError`` where a statement that was run reads otherwise now, or one that commits on its way was
        interrupted; ``UsageError`` for what cannot be run here.
        """
        all_turns = turns_of(script)
        with PostgresStore(self.connection, job, patience_s=_PATIENCE_S, clock=self.clock) as store:
            journal = Journal(store, clock=self.clock, observer=self.observer)
            ended = {record["step"]: record["event"] for record in store.read()}
            left = _left(script, all_turns, ended)
            classified = self._classified(remaining(script, all_turns, left))
            pairs = list(zip(left, turns(classified), strict=True))  # before the first is run
            session.end_with_client(self.connection)
            try:
                return [self._take(turn, parts, journal, again=turn.name in ended) for turn, parts in pairs]
            finally:
                self._reset()

    def left(self, script: Script, job: str) -> Script:
        """Return what of a script its journal does not have as done. Errors: as ``run``."""
        all_turns = turns_of(script)
        return remaining(script, all_turns, _left(script, all_turns, self._ended(job)))

    def unbegun(self, script: Script, job: str) -> Script:
        """Return what of a script its journal does not know: what was begun may be there already, and was linted."""
        all_turns = turns_of(script)
        ended = self._ended(job)
        left = _left(script, all_turns, ended)
        return remaining(script, all_turns, [turn for turn in left if turn.name not in ended])

    def did(self, script: Script, job: str) -> Script:
        """Return what of a script its journal has as done."""
        all_turns = turns_of(script)
        done = {name for name, event in self._ended(job).items() if event == "done"}
        return remaining(script, all_turns, [turn for turn in all_turns if turn.name in done])

    def _ended(self, job: str) -> dict[str, str]:
        with PostgresStore(self.connection, job, patience_s=_PATIENCE_S, clock=self.clock) as store:
            return {record["step"]: record["event"] for record in store.read()}

    def _classified(self, script: Script) -> list[Classified]:
        schema = from_catalog(self.connection)
        major = self.connection.info.server_version // 10000
        return classify([script], schema, major=major, bodies=bodies_of(self.connection))

    def _take(self, turn: Turn, parts: tuple[Classified, ...], journal: Journal, *, again: bool) -> Did:
        first = parts[0]
        options: dict[str, Any] = {"progress": self.progress, "clock": self.clock, "told": self._teller()}
        if len(parts) > 1:
            ran = execute_together(
                self.connection, parts, self.limits, around=lambda: journal.step(turn.name), **options
            )
        elif first.kind is Kind.SESSION:
            ran = execute(self.connection, first, self.limits, **options)
        else:
            ran = execute(
                self.connection,
                first,
                self.limits,
                around=lambda: journal.step(turn.name),
                watch=self.connect,
                again=again,
                **options,
            )
        return Did(first.statement.line, shown(first.statement), first.kind, ran)

    def _teller(self) -> Told:
        """Say who is waited for, once for each set of them."""
        said: list[str] = []

        def told(found: Sequence[Blocker]) -> None:
            text = "; ".join(f"{one}; to end it: {one.end_it}" for one in found)
            if text and text not in said:
                said.append(text)
                self.progress.step(f"waits for {text}")

        return told

    def _reset(self) -> None:
        if not self.connection.closed and not self.connection.broken:
            for statement in _RESETS:
                self.connection.execute(statement)


def turns_of(script: Script) -> list[Turn]:
    """Cut a script into what runs together, as ``classify.turns`` does.

    Errors: ``UsageError`` for what is not SQL, and for what the runner does not run (``refusing``).
    """
    statements, unread = parse(script)
    for one in unread:
        raise UsageError(str(one), hint=one.hint or f"dbsec migrate lint {script.path}")
    groups: list[list[Statement]] = []
    inner: list[list[Statement]] = []
    for statement in statements:
        if statement.origin is not Origin.DIRECT:
            inner[-1].append(statement)
            continue
        if groups and statement.block and groups[-1][-1].block == statement.block:
            groups[-1].append(statement)
        else:
            groups.append([statement])
            inner.append([])
        inner[-1].append(statement)
    refusing.check([refusing.Group(*both) for both in zip(groups, inner, strict=True)])
    return [Turn(_name(number, group), tuple(group)) for number, group in enumerate(groups, 1)]


def runnable(migrations: Iterable[Migration]) -> None:
    """Look at whole files before the ledger knows of them. Errors: those of ``turns_of``."""
    for one in migrations:
        if one.kind is FileKind.SQL:
            turns_of(script_of(one.path))


def not_done(all_turns: Sequence[Turn], ended: dict[str, str], path: str) -> list[Turn]:
    """Leave out what is recorded as done.

    Errors: ``ApplyError`` where something was done that the file does not say, or says elsewhere.
    """
    names = {turn.name for turn in all_turns}
    done = {name for name, event in ended.items() if event == "done"}
    if gone := sorted(done - names):
        number = int(gone[0].partition("-")[0])
        raise ApplyError(
            f"'{path}' was edited while it was half applied: statement {number} was run, and reads otherwise now",
            hint="git diff: bring back what was run; a statement that has not been run may be changed",
        )
    return [turn for turn in all_turns if turn.name not in done]


def _left(script: Script, all_turns: Sequence[Turn], ended: dict[str, str]) -> list[Turn]:
    left = not_done(all_turns, ended, script.path)
    refusing.check_partly_done(script, [(turn.name, turn.statements) for turn in all_turns], ended)
    names = {turn.name for turn in left}
    return [part for turn in all_turns for part in ([turn] if turn.name in names else _set_again(turn))]


def _set_again(done: Turn) -> list[Turn]:
    """What a block that is done has SET for what follows; it is no step of the journal."""
    return [Turn("", (one,)) for one in refusing.lasting(done.statements)] if len(done.statements) > 1 else []


def remaining(script: Script, all_turns: Sequence[Turn], left: Collection[Turn]) -> Script:
    """Blank the statements that are done, lines kept: the schema that is read has them already."""
    kept = {id(statement) for turn in left for statement in turn.statements}
    if len(kept) == sum(len(turn.statements) for turn in all_turns):
        return script
    text = script.text
    begins = [begin for begin, _ in lexer.cut(text)]  # not any place: a comment before may hold the same words
    statements = [(statement, id(statement) not in kept) for turn in all_turns for statement in turn.statements]
    if len(begins) != len(statements) or not all(map(text.startswith, (one.text for one, _ in statements), begins)):
        raise UsageError(f"'{script.path}' cannot be cut into its statements", hint="report it with the file")
    for (statement, done), start in zip(statements, begins, strict=True):
        if done:
            blank = re.sub(r"[^\n]", " ", statement.text)
            text = text[:start] + blank + text[start + len(blank) :]
    return replace(script, text=text)


def _name(number: int, group: Sequence[Statement]) -> str:
    text = "\0".join(one.text for one in group).replace("\r\n", "\n").replace("\r", "\n")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{number:03}-{digest[:12]}"
