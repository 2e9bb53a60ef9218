"""A rule: words as data, one function on an operation, and the proof that a real server gives for it.

One file in ``rules/`` holds one ``RULE``; its name is the file's, with ``-`` for ``_``, and completes "allow …".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

from msgspec import Struct

from dbsec.findings import Severity
from dbsec.migrations.acts import Act, Window
from dbsec.migrations.effects.model import Effect, LockMode, Task, Work
from dbsec.migrations.names import Name
from dbsec.migrations.operations import CreateTrigger, Operation, Refresh
from dbsec.migrations.schema.model import Schema, Table
from dbsec.migrations.session import Session
from dbsec.migrations.statement import Statement


class Hazard(StrEnum):
    """What goes wrong; the key ``hazard`` of a finding."""

    BLOCKS_ALL = "blocks reads and writes"
    BLOCKS_WRITES = "blocks writes"
    BREAKS_RELEASE = "breaks the running release"
    LOSES_DATA = "loses data"
    FAILS = "fails"
    UNSAFE = "unsafe environment"


class Needs(StrEnum):
    """Without which a rule finds nothing: it is not asked about an operation that lacks it."""

    LOCKS = "locks"  # Effect.locks
    BLOCKING = "blocking"  # Step.blocking
    FAILURE = "failure"  # Effect.fails
    TRANSACTION = "transaction"  # Statement.in_transaction


class Step(Struct):
    """All that a rule may look at. ``schema`` is the state before the operation, which is number ``at`` of ``acts``.

    ``blocking``: the work that others wait for, with the lock that they wait for; work on empty tables is none, nor is
    any of a statement whose locks nobody can feel.
    """

    statement: Statement
    operation: Operation
    effect: Effect
    schema: Schema
    session: Session
    acts: list[Act]
    at: int
    refused: Sequence[str] = ()  # codes of the errors that rules before this one have given the operation
    blocking: tuple[tuple[Task, LockMode], ...] = ()
    _table: Table | None = None

    def __post_init__(self) -> None:
        name = getattr(self.operation, "table", None)
        self._table = None if name is None else self.schema.table(name)
        self.blocking = self._blocking() if self.effect.work else ()

    @property
    def preceding(self) -> Sequence[Act]:
        """The script up to here, in order."""
        return Window(self.acts, 0, self.at)

    @property
    def following(self) -> Sequence[Act]:
        """The rest of the script, in order."""
        return Window(self.acts, self.at + 1)

    @property
    def first(self) -> bool:
        """True for the first operation of its statement."""
        return not self.at or self.acts[self.at - 1][0] is not self.statement

    @property
    def major(self) -> int:
        """The server's major version."""
        return self.session.major

    def table(self) -> Table | None:
        """Find the table that the operation names (``.table``), None where it is not known."""
        return self._table

    def _blocking(self) -> tuple[tuple[Task, LockMode], ...]:
        """A statement that PostgreSQL refuses does no work: that it fails is told by rules of its own."""
        if self.effect.fails and not self.effect.unsure:
            return ()
        if isinstance(self.operation, Refresh) and self.operation.concurrently:
            return ()  # EXCLUSIVE, but nobody else writes to a materialized view
        found = tuple([one for one in self.effect.blocking() if not self._is_empty(one[0].table)])
        return found if found and self._felt() else ()

    def _felt(self) -> bool:
        """Tell whether anybody can wait: of a table that the release made, only a trigger of an old one may know."""
        for name, mode in self.effect.locks:
            if mode.blocks_writes and self._is_old(name):
                return True
        return any(isinstance(act, CreateTrigger) and self._is_old(act.table) for _, act in self.preceding)

    def _is_empty(self, name: Name) -> bool:
        known = self.schema.table(name)
        return known is not None and known.empty

    def _is_old(self, name: Name) -> bool:
        known = self.schema.table(name)
        return known is None or not known.new


class Hit(Struct, frozen=True):
    """What a rule found in one operation.

    ``target``: the object by name ("app.users.phone"). ``message``: what happens here, one sentence. ``fix``: the SQL
    to run instead, whole statements. ``severity`` and ``hazard``: where they differ from the rule's. ``table``:
    whose size decides how long it blocks.
    """

    target: str
    message: str
    fix: str = ""
    severity: Severity | None = None
    hazard: Hazard | None = None
    table: Name | None = None


# --- proofs: how a contract test sees on a real server that ``bad`` does the harm and ``good`` does not


class Locks(Struct, frozen=True):
    """``bad`` takes ``mode`` on ``table`` (pg_locks) and does ``work`` (filenode, DEBUG1, counters) while it holds it.

    ``good`` does none of this work under a lock that blocks writes (one statement of it may, on a table of its own).
    ``work`` empty: the lock itself is the harm, and ``good`` does not take it for as long or at all.
    """

    mode: LockMode
    table: str
    work: Work | None = None


class Breaks(Struct, frozen=True):
    """``old`` is a statement of the running release: works before; fails with ``sqlstate`` after ``bad``, works after
    ``good``."""

    old: str
    sqlstate: str


class Loses(Struct, frozen=True):
    """``query`` gives the same rows before and after ``good``; after ``bad`` it gives others, or fails."""

    query: str


class Refused(Struct, frozen=True):
    """``bad`` itself ends with ``sqlstate``; ``good`` does not. ``blocker``: what another session has run meanwhile, in
    a transaction that is open as long as ``bad`` runs."""

    sqlstate: str
    blocker: str = ""


class Warned(Struct, frozen=True):
    """``bad`` gives a WARNING or NOTICE with ``sqlstate``; ``good`` does not."""

    sqlstate: str


class Queues(Struct, frozen=True):
    """While another session holds ``blocker`` (a statement in an open transaction), ``bad`` waits and lets a SELECT on
    ``table``, or a writer of it, wait behind it; ``good`` gives up by itself with ``sqlstate`` or does not wait."""

    blocker: str
    table: str
    sqlstate: str = "55P03"


class Shows(Struct, frozen=True):
    """``query`` gives ``after_bad`` (its only value as text) once ``bad`` ran, and another value once ``good`` ran."""

    query: str
    after_bad: str


Proof = Locks | Breaks | Loses | Refused | Warned | Queues | Shows


class Example(Struct, frozen=True):
    """``bad`` and ``good`` run after ``setup`` on a database of their own, as ``psql -f`` would (each statement commits
    unless BEGIN is written); the linter sees ``setup`` as the deployed schema."""

    setup: str
    bad: str
    good: str
    proof: Proof


class Rule(Struct, frozen=True):
    """Words and one function. ``name`` completes "allow …". ``applies``: the operations that ``match`` wants to see.

    ``effect``: what PostgreSQL does, with lock and work. ``instead``: what to do. ``since``/``until``: the first and
    last major that it holds for. ``aliases``: the names that squawk, strong_migrations and eugene use for it (squawk's
    are honoured in ``squawk-ignore``). ``source``: pages of PostgreSQL's manual (``sql-altertable``), no whole address.
    ``needs``: without which there is nothing to find.
    """

    code: str
    name: str
    title: str
    severity: Severity
    hazard: Hazard
    applies: tuple[type[Operation], ...]
    match: Callable[[Step], Iterable[Hit]]
    effect: str
    instead: str
    example: Example
    source: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    since: int = 14
    until: int | None = None
    mechanical: bool = False  # ``Hit.fix`` may replace the statement (``--fix``)
    needs: Needs | None = None
    once: bool = False  # a script gets its first finding only
    more: tuple[Example, ...] = ()
