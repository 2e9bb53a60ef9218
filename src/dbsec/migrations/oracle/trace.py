"""The oracle: replays a migration on a scratch PostgreSQL and holds what it did against what the linter foretells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from dbsec.errors import UsageError
from dbsec.findings import Finding, Severity
from dbsec.migrations.effects.model import NOTHING, Effect, LockMode, Work
from dbsec.migrations.names import Name
from dbsec.migrations.oracle.comparing import disagreements
from dbsec.migrations.oracle.foretelling import foretold, key
from dbsec.migrations.oracle.loading import load, rows_follow
from dbsec.migrations.oracle.observe import Observed, Observer
from dbsec.migrations.reading.parse import parse
from dbsec.migrations.schema.catalog import from_catalog
from dbsec.migrations.schema.dump import from_dump
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script, Unread
from dbsec.migrations.statement import Origin, Statement
from dbsec.pg import Conninfo, connect
from dbsec.progress import Progress, Silent

CODE, RULE_NAME = "MIG590", "static-disagrees"
_DATA_DECIDES = ("22", "23")  # classes of SQLSTATE: data exception, integrity constraint violation
_SKIPPED = "COPY FROM stdin has its rows in the file: it is not replayed"

_USER_TABLES: LiteralString = """
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'm', 'f') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
 ORDER BY 1 LIMIT 4
"""


@dataclass(frozen=True, slots=True)
class Traced:
    """One statement: what the linter foretells of it, what PostgreSQL did, and where the two part.

    ``observed`` is None where it failed (``error``: SQLSTATE and message) or was not run (``error`` is None too).
    ``held``: what its transaction had locked before it. ``old``: the tables that were there before the release.
    """

    statement: Statement
    foretold: Effect
    observed: Effect | None
    error: tuple[str, str] | None
    seconds: float
    disagreements: tuple[str, ...]
    held: tuple[tuple[Name, LockMode], ...] = ()
    old: frozenset[Name] = frozenset()

    @property
    def blocking(self) -> bool:
        """Tell whether PostgreSQL worked on an old table while clients of one had to wait."""
        if self.observed is None:
            return False
        locks = [mode for name, mode in (*self.observed.locks, *self.held) if name in self.old]
        worked = any(task.table in self.old for task in self.observed.work)
        return worked and any(mode.blocks_writes for mode in locks)

    def to_json(self) -> dict[str, Any]:
        """Shape: file, line, statement, seconds, foretold and observed {locks, work, proofs}, error, disagreements."""
        where = {"file": self.statement.script.path, "line": self.statement.line, "statement": self.statement.text}
        return {
            **where,
            "seconds": round(self.seconds, 4),
            "foretold": _plain(self.foretold),
            "observed": None if self.observed is None else _plain(self.observed),
            "error": None if self.error is None else {"sqlstate": self.error[0], "message": self.error[1]},
            "blocking": self.blocking,
            "disagreements": list(self.disagreements),
        }

    def findings(self) -> list[Finding]:
        """Make a finding of each disagreement: an error where PostgreSQL did more than the linter knows of."""
        where: dict[str, str | int] = {
            "file": self.statement.script.path,
            "line": self.statement.line,
            "statement": self.statement.text,
            "hazard": "the linter is wrong",
        }
        severity = Severity.ERROR if self.blocking and not _expects_work(self) else Severity.WARNING
        target = f"{self.statement.script.path}:{self.statement.line}"
        return [
            Finding(CODE, RULE_NAME, severity, target, text, "", ("dbsec migrate facts",), dict(where))
            for text in self.disagreements
        ]


def _expects_work(traced: Traced) -> bool:
    return any(task.work is not Work.WRITE for task in traced.foretold.work)


def trace(
    scripts: Sequence[Script],
    *,
    schema_sql: str | None,
    scratch: Conninfo,
    roles: bool = True,
    existing: bool = False,
    unread: list[Unread] | None = None,
    progress: Progress | None = None,
) -> list[Traced]:
    """Load the schema into the scratch database, replay the scripts there, and watch each statement.

    Everything is run for real: ``scratch`` must be a database for nothing else. One that has tables is refused unless
    ``existing``; without ``schema_sql`` they then are the schema. ``roles``: make the roles that are missing (NOLOGIN).
    ``unread`` gets what could not be loaded or parsed. Errors: ``UsageError``, ``ConnectError``.
    """
    said = unread if unread is not None else []
    with connect(scratch) as watcher:
        _refuse_tables(watcher, scratch, existing=existing)
        if schema_sql is not None:
            said += load(watcher, schema_sql, source="schema", roles=roles)
        schema = from_dump(schema_sql, source="schema")[0] if schema_sql is not None else from_catalog(watcher)
        replay = _Replay(scripts, schema, watcher, lambda: connect(scratch), said, progress or Silent())
        return replay.run()


def _refuse_tables(session: psycopg.Connection[Any], scratch: Conninfo, *, existing: bool) -> None:
    found = [row[0] for row in session.execute(_USER_TABLES)]
    if found and not existing:
        shown = ", ".join(found[:3]) + (" …" if len(found) > 3 else "")
        raise UsageError(
            f"database '{scratch.dbname}' is not empty ({shown}): a replay runs the migration for real",
            hint="createdb scratch, or say that these tables may be changed: --existing",
        )


class _Replay:
    def __init__(
        self,
        scripts: Sequence[Script],
        schema: Schema,
        watcher: psycopg.Connection[Any],
        connect_again: Callable[[], psycopg.Connection[Any]],
        unread: list[Unread],
        progress: Progress,
    ) -> None:
        self._scripts = scripts
        self._watcher = watcher
        self._connect: Callable[[], AbstractContextManager[psycopg.Connection[Any]]] = connect_again
        self._connect_again = connect_again
        self._unread = unread
        self._progress = progress
        major = watcher.info.server_version // 10000
        schema.major = major
        self._foretold = foretold(scripts, schema, major)
        self._old: frozenset[Name] | None = None

    def run(self) -> list[Traced]:
        found: list[Traced] = []
        for done, script in enumerate(self._scripts, 1):
            statements, missed = parse(script)
            self._unread += missed
            with self._connect() as actor:
                observer = Observer(actor, self._watcher, self._connect_again)
                if not script.deployed and self._old is None:
                    self._old = frozenset(observer.tables())
                found += self._script(observer, [one for one in statements if one.origin is Origin.DIRECT])
            self._progress.count("files", done, len(self._scripts))
        return found

    def _script(self, observer: Observer, statements: list[Statement]) -> Iterator[Traced]:
        ours = _blocks_of_the_tool(statements)
        block = 0
        for statement in statements:
            if block and statement.block != block:
                yield from self._ended(observer, statement, "COMMIT")
                block = 0
            if statement.block in ours and not block:
                block = statement.block
                observer.run("BEGIN", "TransactionStmt")
            if (traced := self._one(observer, statement)) is not None:
                yield traced
        if observer.in_transaction and statements:
            yield from self._ended(observer, statements[-1], "COMMIT" if block else "ROLLBACK")

    def _ended(self, observer: Observer, statement: Statement, how: str) -> Iterator[Traced]:
        seen = observer.run(how, "TransactionStmt")
        if seen.error is not None and not statement.script.deployed:
            yield self._traced(statement, seen)

    def _one(self, observer: Observer, statement: Statement) -> Traced | None:
        if rows_follow(statement):
            self._unread.append(Unread(statement.script.path, statement.line, _SKIPPED))
            return None
        seen = observer.run(statement.text, statement.kind)
        if statement.script.deployed:
            if seen.error is not None:
                text = f"a deployed statement fails on the scratch database ({seen.error[0]}): {seen.error[1]}"
                self._unread.append(Unread(statement.script.path, statement.line, text))
            return None
        if statement.kind == "TransactionStmt" and seen.error is None:
            return None
        return self._traced(statement, seen)

    def _traced(self, statement: Statement, seen: Observed) -> Traced:
        said = self._foretold.get(key(statement), NOTHING)
        old = self._old or frozenset()
        if seen.effect is not None:
            parted = disagreements(said, seen.effect, tables=old, held=seen.held)
        else:
            sqlstate = seen.error[0] if seen.error else ""
            foreseen = said.fails or sqlstate.startswith(_DATA_DECIDES)
            parted = () if foreseen else (f"PostgreSQL refuses it ({sqlstate}), the linter foretells that it works",)
        held = tuple(seen.held.items())
        return Traced(statement, said, seen.effect, seen.error, seen.seconds, parted, held, old)


def _blocks_of_the_tool(statements: Sequence[Statement]) -> set[int]:
    """Name the blocks that no BEGIN of the script opens; one that is a DO block alone is the server's own."""
    written = {one.block for one in statements if one.kind == "TransactionStmt"}
    several = {one.block for one in statements if one.kind != "DoStmt"}
    return {one.block for one in statements if one.block and one.block not in written and one.block in several}


def _plain(effect: Effect) -> dict[str, Any]:
    found: dict[str, Any] = {
        "locks": {str(name): mode.sql for name, mode in effect.locks},
        "work": [{"work": str(task.work), "table": str(task.table), "why": task.why} for task in effect.work],
        "proofs": list(effect.proofs),
    }
    return {**found, **({"fails": effect.fails} if effect.fails else {}), **({"unsure": True} if effect.unsure else {})}
