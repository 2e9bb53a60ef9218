"""Which way each statement of a release is run, from what it will lock and do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from dbsec.findings import Severity
from dbsec.migrations.effects import together
from dbsec.migrations.effects.model import Effect, LockMode, Work
from dbsec.migrations.linter import Located
from dbsec.migrations.names import Name
from dbsec.migrations.operations import CreateTableAs, SetVariable, Write
from dbsec.migrations.rule import Hazard
from dbsec.migrations.runner import hearing
from dbsec.migrations.runner.bodies import Bodies, bodies_of
from dbsec.migrations.runner.hearing import Heard
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script
from dbsec.migrations.statement import Statement

if TYPE_CHECKING:
    pass

TIMEOUTS = ("lock_timeout", "statement_timeout", "transaction_timeout", "idle_in_transaction_session_timeout")
_KEEPS = "PREPARE TRANSACTION keeps its locks until somebody ends it"
_ENDED_FROM_OUTSIDE = ("TRANS_STMT_COMMIT_PREPARED", "TRANS_STMT_ROLLBACK_PREPARED")
_OF_SESSION = ("VariableSetStmt", "DiscardStmt", "ListenStmt", "UnlistenStmt", "PrepareStmt", "DeallocateStmt")

__all__ = ["Classified", "Kind", "blocks_together", "bodies_of", "classify", "turns"]


class Kind(StrEnum):
    """The ways; ``execute`` has one for each."""

    SHORT = "short"  # SHARE or more on what was there, for a moment: NOWAIT
    LONG = "long"  # work under a lock that neither readers nor writers notice
    CONCURRENT = "concurrent"  # outside a transaction: CONCURRENTLY, VACUUM
    ROWS = "rows"  # UPDATE, DELETE, INSERT, MERGE, COPY
    FREE = "free"  # no lock on what was there
    SESSION = "session"  # SET, RESET: to be run again by whoever resumes
    BLOCKING = "blocking"  # SHARE or more while work grows with the table: refused unless allowed
    TRANSACTION = "transaction"  # BEGIN, COMMIT, SAVEPOINT …


@dataclass(frozen=True, slots=True)
class Classified:
    """``locks``: what it takes on relations that were there before, by name with schema.

    ``why`` names the rule where the kind is BLOCKING. ``alone``: PostgreSQL refuses it in a transaction. ``settings``:
    what the file has SET when it runs. ``unsure``: not all of its locks are known.
    """

    statement: Statement
    kind: Kind
    locks: tuple[tuple[Name, LockMode], ...]
    effect: Effect
    why: str
    alone: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    unsure: bool = False

    @property
    def place(self) -> str:
        """``file:line``, as errors say it."""
        return f"{self.statement.script.path}:{self.statement.line}"

    @property
    def strongest(self) -> LockMode | None:
        """Return the strongest of its locks."""
        return max((mode for _, mode in self.locks), default=None)


def classify(
    scripts: Sequence[Script], schema: Schema, *, major: int, bodies: Bodies | None = None
) -> list[Classified]:
    """Tell the kind of every statement that a client sends, in order; ``schema`` is changed as by ``lint``.

    ``bodies``: of the functions that are there (``bodies_of``); one whose body is not given may lock anything.
    Errors: ``UsageError`` where a statement cannot be read: a runner must not pass it over.
    """
    found, located = hearing.hear(scripts, schema, major, bodies or {})
    return [_classified(heard, located) for heard in found]


def turns(classified: Sequence[Classified]) -> list[tuple[Classified, ...]]:
    """Group what runs together: a BEGIN … COMMIT block (or a file that its tool wraps) is one, else each statement."""
    groups: list[list[Classified]] = []
    for one in classified:
        before = groups[-1][-1].statement if groups else None
        joined = before is not None and _block(before) == _block(one.statement) != ("", 0)
        groups[-1].append(one) if joined else groups.append([one])
    return [tuple(group) for group in groups]


def _block(statement: Statement) -> tuple[str, int]:
    """The transaction of a script's statements; a DO block in autocommit has a number too, but is alone in it."""
    return (statement.script.path, statement.block) if statement.in_transaction else ("", 0)


def _classified(heard: Heard, located: Sequence[Located]) -> Classified:
    statement, effect = heard.statement, heard.effect
    kind, why = _kind(heard)
    if kind is Kind.BLOCKING:
        why = next(_rules(statement, located), why)
    settings = {name: heard.settings[name] for name in TIMEOUTS if name in heard.settings}
    alone = heard.alone or heard.commits or statement.node.get("kind") in _ENDED_FROM_OUTSIDE
    locks = tuple(sorted(heard.old.items(), key=lambda lock: str(lock[0])))
    return Classified(statement, kind, locks, effect, why, alone, settings, bool(heard.doubts))


def _kind(heard: Heard) -> tuple[Kind, str]:
    statement = heard.statement
    if statement.kind == "TransactionStmt":
        return _control(statement)
    if statement.kind in _OF_SESSION or _only_sets(heard):
        return Kind.SESSION, "it is for the session"
    strongest = max(heard.old.values(), default=None)
    compared = heard.alone and statement.kind == "RefreshMatViewStmt"  # EXCLUSIVE, but nobody else writes to it
    if strongest is not None and strongest.blocks_writes and not compared and (work := _grows(heard)):
        return Kind.BLOCKING, f"{work} under {strongest.sql}"
    if heard.alone and not heard.commits:
        return Kind.CONCURRENT, "it runs outside a transaction"
    if strongest is not None and strongest.blocks_writes:
        return Kind.SHORT, f"{strongest.sql} for a moment"
    if heard.doubts:
        return Kind.SHORT, heard.doubts
    if any(isinstance(one, Write) for one in heard.operations):
        return Kind.ROWS, "it writes rows"
    if strongest is not None or _reads(heard):
        return Kind.LONG, f"{strongest.sql}: reads and writes go on" if strongest else "it reads"
    return Kind.FREE, "it locks nothing that was there"


def _control(statement: Statement) -> tuple[Kind, str]:
    if statement.node["kind"] == "TRANS_STMT_PREPARE":
        return Kind.BLOCKING, _KEEPS
    if statement.node["kind"] in _ENDED_FROM_OUTSIDE:
        return Kind.CONCURRENT, "it ends a prepared transaction"
    return Kind.TRANSACTION, "it begins or ends a transaction"


def _only_sets(heard: Heard) -> bool:
    """SELECT set_config(…) is a SET too."""
    return heard.statement.kind == "SelectStmt" and any(isinstance(one, SetVariable) for one in heard.operations)


def _grows(heard: Heard) -> str:
    """Say what work grows with a table while the lock is held; rows that are written count beside DDL only."""
    for task in heard.effect.work:
        if task.work is not Work.WRITE or heard.statement.kind in ("DoStmt", "SelectStmt", "CallStmt"):
            return f"{task.work} of '{task.table}'"
    return ""


def _reads(heard: Heard) -> bool:
    return any(isinstance(one, CreateTableAs) for one in heard.operations) or hearing.reads(heard)


def _rules(statement: Statement, located: Sequence[Located]) -> Iterator[str]:
    """Name the linter's errors of a statement (or of its body) that say how it blocks."""
    last = statement.line + statement.text.count("\n")
    for one in located:
        if one.finding.severity is not Severity.ERROR or (one.hit.hazard or one.rule.hazard) not in _BLOCKS:
            continue
        own = one.statement
        inside = own.script.path == statement.script.path and statement.line <= own.line <= last
        if inside and (statement.kind == "DoStmt" or hearing.key(own) == hearing.key(statement)):
            yield f"{one.finding.code} {one.rule.name}: {one.finding.message}"


_BLOCKS = (Hazard.BLOCKS_ALL, Hazard.BLOCKS_WRITES)


def blocks_together(block: Sequence[Classified]) -> str:
    """Say which work a transaction would do while it holds a lock that others wait for; "" where none."""
    locks: dict[Name, LockMode] = {}
    for one in block:
        for name, mode in one.locks:
            locks[name] = max(mode, locks.get(name, mode))
        strongest = max(locks.values(), default=None)
        if strongest is None or not strongest.blocks_writes:
            continue
        for task in together([one.effect]).work:
            held = next(name for name, mode in locks.items() if mode is strongest)
            return f"{one.place}: {task.work} of '{task.table}' while the transaction holds {strongest.sql} on '{held}'"
    return ""
