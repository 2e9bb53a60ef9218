"""Run one statement on a real server and tell what PostgreSQL did, in the words in which the linter foretells it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, LiteralString

import psycopg

from dbsec.migrations.effects.model import Effect, LockMode, Task, Work
from dbsec.migrations.names import Name
from dbsec.migrations.oracle import relations
from dbsec.migrations.oracle.notices import Notice, proofs_in, work_in
from dbsec.migrations.oracle.relations import Relation, scanned, spoken_of, strongest, written
from dbsec.migrations.oracle.waiting import Locks, Run, holding, locks_of

NOT_IN_TRANSACTION = ("25001", "2D000")
_RUNS_ALONE = {"LockStmt", "DeclareCursorStmt"}  # refused outside of a transaction: ours must not hide that
_PLAIN = {"TransactionStmt", "VariableSetStmt", "DiscardStmt"}  # lock nothing, and ask for an untouched transaction
_MOVES_FILES = {"TruncateStmt"}  # a new file, but no row is written
_HIDES_TRUNCATE = {"DoStmt", "CallStmt", "SelectStmt"}  # a new file in a body counts where a rewrite is told
_WRITES_ROWS = {"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "CopyStmt", "DoStmt", "CallStmt"}
_READS_ROWS = _WRITES_ROWS - {"DoStmt", "CallStmt"} | {"CreateTableAsStmt"}  # not to check them

_FOREIGN_KEYS: LiteralString = "SELECT conrelid::bigint FROM pg_constraint WHERE contype = 'f' AND conname = %s"


@dataclass(frozen=True, slots=True)
class Observed:
    """What one statement did. ``effect`` is None where it failed; ``error``: SQLSTATE and message.

    ``notices`` are those above DEBUG; ``seconds`` is what the statement itself took. ``tables`` (and views) were there
    before it; ``held`` is what its transaction had locked before.
    """

    effect: Effect | None
    error: tuple[str, str] | None = None
    notices: tuple[Notice, ...] = ()
    seconds: float = 0.0
    tables: frozenset[Name] = frozenset()
    held: Mapping[Name, LockMode] = field(default_factory=dict)


@dataclass(slots=True)
class Observer:
    """Two sessions of one database: ``actor`` runs the statements in autocommit, ``watcher`` reads its locks.

    ``connect`` opens further sessions, which make a statement wait that runs in no transaction. Where a statement of an
    open transaction fails, the transaction is begun again and what worked is repeated, so that the rest can run.
    """

    actor: psycopg.Connection[Any]
    watcher: psycopg.Connection[Any]
    connect: Callable[[], psycopg.Connection[Any]]
    _notices: list[Notice] = field(default_factory=list)
    _so_far: list[str] = field(default_factory=list)  # the statements of the open transaction that worked

    def __post_init__(self) -> None:
        self.actor.prepare_threshold = None  # a script may say DISCARD ALL, which drops what the driver has prepared
        self.actor.add_notice_handler(
            lambda d: self._notices.append(
                Notice(d.severity_nonlocalized or "", d.sqlstate or "", d.message_primary or "")
            )
        )

    @property
    def in_transaction(self) -> bool:
        """Tell whether the script has opened a transaction."""
        return self.actor.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE

    def run(self, text: str, kind: str) -> Observed:
        """Run a statement as psql would, and tell what it did; ``kind`` is the parse tree's.

        Locks: those of the statement itself; in autocommit they are gone when this returns.
        """
        self._notices.clear()
        seen = self._run(text, kind)
        if not self.in_transaction:
            self._so_far.clear()
        elif self.actor.info.transaction_status is psycopg.pq.TransactionStatus.INERROR:
            self._again()
        elif seen.error is None:
            self._so_far.append(text)
        return seen

    def _run(self, text: str, kind: str) -> Observed:
        if kind in _PLAIN:
            return self._plain(text)
        if self.in_transaction:
            return self._measured(text, kind)
        if kind in _RUNS_ALONE:
            return self._alone(text, kind)
        seen = self._wrapped(text, kind)
        if seen.error is not None and seen.error[0] in NOT_IN_TRANSACTION:
            self._notices.clear()
            return self._alone(text, kind)
        return seen

    def _again(self) -> None:
        """Begin the aborted transaction again and repeat what had worked: savepoints would change what is allowed."""
        self.actor.execute("ROLLBACK")
        for text in self._so_far:
            if self._execute(text):
                break

    def tables(self) -> set[Name]:
        """Name the tables and views that are there now."""
        return {relation.name for relation in self._relations().values() if relation.is_table}

    def rehearse(self, text: str, kind: str, then: Callable[[], None]) -> Observed:
        """Run a statement that commits by itself, unless it fails something else in its transaction, and undo both."""
        self._notices.clear()
        self.actor.execute("BEGIN")
        seen = self._measured(text, kind)
        if seen.error is None:
            then()
        self.actor.execute("ROLLBACK")
        return seen

    def _plain(self, text: str) -> Observed:
        started = time.monotonic()
        error = self._execute(text)
        return self._told(None if error else Effect(), error, time.monotonic() - started)

    def _wrapped(self, text: str, kind: str) -> Observed:
        self.actor.execute("BEGIN")
        seen = self._measured(text, kind)
        if seen.error is not None:
            self.actor.execute("ROLLBACK")
            return seen
        if error := self._execute("COMMIT"):
            return self._told(None, error, seen.seconds)
        return seen

    def _measured(self, text: str, kind: str) -> Observed:
        before, held = self._relations(), self._locks()
        self._notices.clear()
        started = time.monotonic()
        error = self._execute(text)
        seconds = time.monotonic() - started
        effect = None if error else self._effect(kind, before, self._relations(), self._locks() - held)
        return self._beside(self._told(effect, error, seconds), before, held)

    def _alone(self, text: str, kind: str) -> Observed:
        before = self._relations()
        self._notices.clear()
        run = Run(self.actor, text)
        started = time.monotonic()
        held = [] if "skip_locked" in text.lower() else spoken_of(text, before)  # it would pass by what is held
        with holding(held, self.connect) as holders:
            run.watch(self.watcher, holders)
        seconds = time.monotonic() - started
        error = _reason(run.error) if run.error else None
        effect = None if error else self._effect(kind, before, self._relations(), run.locks)
        return self._beside(self._told(effect, error, seconds), before, set())

    def _execute(self, text: str) -> tuple[str, str] | None:
        try:
            self.actor.execute(text.encode())
        except psycopg.Error as exc:
            return _reason(exc)
        return None

    def _told(self, effect: Effect | None, error: tuple[str, str] | None, seconds: float) -> Observed:
        loud = tuple(notice for notice in self._notices if not notice.severity.startswith("DEBUG"))
        return Observed(effect, error, loud, seconds)

    def _beside(self, seen: Observed, before: dict[int, Relation], held: Locks) -> Observed:
        tables = frozenset(relation.name for relation in before.values() if relation.is_table)
        return replace(seen, tables=tables, held=dict(strongest(held, before)))

    def _relations(self) -> dict[int, Relation]:
        return relations.read(self.actor)

    def _locks(self) -> Locks:
        return locks_of(self.actor.info.backend_pid, self.watcher)

    def _effect(self, kind: str, before: dict[int, Relation], after: dict[int, Relation], locks: Locks) -> Effect:
        """Put together what only existed before the statement: what it makes is nobody's yet."""
        tables = {oid: seen for oid, seen in before.items() if seen.is_table}
        mine = strongest(locks, before)
        locked = {oid for oid, _ in locks}
        work = self._work(kind, tables, after, locked)
        work |= written(tables, after) if kind in _WRITES_ROWS else set()
        known = {task.table for task in work} | relations.with_new_files(tables, after)
        if kind not in _READS_ROWS | _MOVES_FILES and not any(task.work is Work.FK_SCAN for task in work):
            work |= scanned(tables, after, dict(mine), known)
        return Effect(mine, tuple(sorted(work, key=lambda t: (t.table, t.work))), proofs_in(self._notices))

    def _work(self, kind: str, tables: dict[int, Relation], after: dict[int, Relation], locked: set[int]) -> set[Task]:
        if kind in _MOVES_FILES:
            return set()
        told_work = work_in(self._notices)
        moved = relations.with_new_files(tables, after)
        rewritten = {told.table for told in told_work if told.work is Work.REWRITE}
        emptied = {name for name in moved if kind in _HIDES_TRUNCATE and name.name not in rewritten}
        found = {Task(Work.REWRITE, name, "its file is new") for name in moved - emptied}
        for told in told_work:
            oids = self._by_constraint(told.constraint) if told.constraint else _named(told.table, tables)
            for oid in (oids & locked or oids) & tables.keys():
                if tables[oid].kind not in "rm":  # of a partitioned table its partitions are read
                    continue
                name = tables[oid].name
                if told.work is Work.FK_SCAN:
                    found.add(Task(told.work, name, f"foreign key '{told.constraint}'"))
                elif told.work is not Work.REWRITE and name not in moved:
                    found.add(Task(told.work, name, f"index '{told.index}'" if told.index else ""))
        return found

    def _by_constraint(self, name: str) -> set[int]:
        return {row[0] for row in self.actor.execute(_FOREIGN_KEYS, [name])}


def _named(name: str, tables: dict[int, Relation]) -> set[int]:
    return {oid for oid, table in tables.items() if table.name.name == name}


def _reason(exc: BaseException) -> tuple[str, str]:
    sqlstate = (exc.sqlstate if isinstance(exc, psycopg.Error) else None) or ""
    return sqlstate, (str(exc).strip() or type(exc).__name__).splitlines()[0]
