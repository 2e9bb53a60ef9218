"""The linter: runs the scripts of a release against the schema, in order, and asks every rule about every operation."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from msgspec import Struct, field

from dbsec import discovery
from dbsec.findings import Finding, Severity
from dbsec.migrations import collector
from dbsec.migrations import rules as rules_package
from dbsec.migrations.acts import Act, Read, read, rolls_back, too_deep
from dbsec.migrations.effects import foretell
from dbsec.migrations.effects.model import NOTHING
from dbsec.migrations.mismatch import missing
from dbsec.migrations.operations import (
    Operation,
    TransactionControl,
)
from dbsec.migrations.rule import Hazard, Hit, Needs, Rule, Step
from dbsec.migrations.schema.apply import apply
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script, Unread
from dbsec.migrations.session import Session
from dbsec.migrations.statement import Statement
from dbsec.migrations.whole import with_whole_fixes

if TYPE_CHECKING:
    from dbsec.migrations.stats import Stats

DEFAULT_MAJOR = 18
MAJORS = range(14, 19)
_NEAR = 8  # so many findings back: more does not say of a statement what one clause has said
MANUAL = "https://www.postgresql.org/docs/{major}/{page}.html"


@dataclass(frozen=True, slots=True)
class Options:
    """``major``: the server that the migration is for. ``rules``: by name; None is all of them."""

    major: int = DEFAULT_MAJOR
    stats: Stats | None = None
    rules: Mapping[str, Rule] | None = None


class Located(Struct, frozen=True):
    """A finding with what it was made of."""

    finding: Finding
    rule: Rule
    hit: Hit
    statement: Statement
    operation: Operation


class Result(Struct):
    """``files`` and ``statements`` count what was judged; ``unread`` what could not be."""

    located: list[Located] = field(default_factory=list)
    files: int = 0
    statements: int = 0
    unread: list[Unread] = field(default_factory=list)

    @property
    def findings(self) -> list[Finding]:
        """The findings in the order of the statements."""
        return [located.finding for located in self.located]


@cache
def all_rules() -> Mapping[str, Rule]:
    """Import every rule; name -> rule, in the order of the codes."""
    found = discovery.constants_in(rules_package, "RULE").values()
    return {rule.name: rule for rule in sorted(found, key=lambda rule: rule.code)}


def lint(scripts: Sequence[Script], *, schema: Schema | None = None, options: Options | None = None) -> Result:
    """Judge the scripts as one release: what an earlier one creates, a later one may alter.

    ``schema`` is changed: afterwards it is what the release leaves. Deployed scripts shape it without a finding.
    """
    return Release(scripts, schema=schema, options=options).judge(0, len(scripts))


class Release:
    """Scripts that are judged in parts, in order; as ``lint``, which judges them at once."""

    def __init__(
        self, scripts: Sequence[Script], *, schema: Schema | None = None, options: Options | None = None
    ) -> None:
        options = options or Options()
        state = schema if schema is not None else Schema()
        state.major = state.major or options.major
        self._scripts, self._at, self._engine = scripts, 0, _Engine(state, options)
        self._read: dict[int, Read] = {}

    def read(self, start: int, stop: int) -> Iterator[Sequence[Operation]]:
        """Read ``scripts[start:stop]`` ahead; yields the operations of each."""
        for at in range(start, stop):
            with collector.paused():
                found = self._read[at] = read(self._scripts[at])
            yield [operation for _, operation in found.acts]

    def follow(self, scripts: Sequence[Sequence[Operation]]) -> None:
        """Shape the schema by the next scripts, which another process has read."""
        with collector.paused():
            for script, operations in zip(self._scripts[self._at :], scripts, strict=False):
                self._engine.shape(script, operations)
        self._at += len(scripts)

    def judge(self, start: int, stop: int) -> Result:
        """Judge ``scripts[start:stop]``; those before, where they were not judged, only shape the schema."""
        engine = self._engine
        with collector.paused():
            for script in self._scripts[self._at : start]:
                engine.shape(script, [operation for _, operation in read(script).acts])
            engine.result = Result()
            for at in range(start, stop):
                engine.run(self._scripts[at], self._read.pop(at) if at in self._read else read(self._scripts[at]))
        self._at = stop
        return engine.result


class _Engine:
    def __init__(self, schema: Schema, options: Options) -> None:
        self.schema = schema
        self.options = options
        self.result = Result()
        self._chosen = options.rules if options.rules is not None else all_rules()
        # one that is not asked for still tells the others of its error
        every = {**all_rules(), **self._chosen}.values()
        self._rules = [rule for rule in every if rule.since <= options.major <= (rule.until or options.major)]
        self._rules_of: dict[tuple[type[Operation], *tuple[bool, ...]], tuple[Rule, ...]] = {}
        self._pages: dict[str, tuple[str, ...]] = {}
        self._session = Session(options.major)
        self._told = set[str]()
        self._before: Schema | None = None  # the state that the open transaction will go back to

    def run(self, script: Script, found: Read) -> None:
        acts = found.acts
        self.result.unread += found.unread
        self._session = Session(self.options.major)
        self._told = set[str]()  # rules that have a finding in this script
        first = len(self.result.located)
        for at, (statement, operation) in enumerate(acts):
            self._session.enter(statement.block)
            if isinstance(operation, TransactionControl):
                self._turn(operation, (acts[later][1] for later in range(at + 1, len(acts))))
            try:
                self._judge(acts, at)
                self._session.advance(statement, operation, self._effect)
                apply(self.schema, operation, released=not script.deployed)
            except RecursionError:
                self.result.unread.append(too_deep(statement))
        self.result.located[first:] = with_whole_fixes(self.result.located[first:], acts)
        if not script.deployed:
            self.result.files += 1
            self.result.statements += found.number

    def shape(self, script: Script, operations: Sequence[Operation]) -> None:
        """Change the schema as ``run`` does, and judge nothing."""
        for at, operation in enumerate(operations):
            if isinstance(operation, TransactionControl):
                self._turn(operation, (operations[later] for later in range(at + 1, len(operations))))
            apply(self.schema, operation, released=not script.deployed)

    def _turn(self, operation: TransactionControl, following: Iterable[Operation]) -> None:
        if operation.act == "begin" and rolls_back(following):
            self._before = copy.deepcopy(self.schema)
        elif operation.act == "rollback" and self._before is not None:
            self.schema, self._before = self._before, None

    def _judge(self, acts: list[Act], at: int) -> None:
        statement, operation = acts[at]
        if statement.script.deployed:
            self._effect = NOTHING
            return
        self._effect = foretell(operation, self.schema, self._session, in_transaction=statement.in_transaction)
        if self.schema.known and (reason := missing(operation, self.schema)):
            self.result.unread.append(Unread(statement.script.path, statement.line, reason, hint="pg_dump -s, again"))
        refused: list[str] = []
        step = Step(statement, operation, self._effect, self.schema, self._session, acts, at, refused)
        for rule in self._interested(step):
            if rule.once and rule.name in self._told:
                continue
            for hit in rule.match(step):
                self._report(rule, hit, step)
                self._told.add(rule.name)
                if (hit.severity or rule.severity) is Severity.ERROR:
                    refused.append(rule.code)

    def _interested(self, step: Step) -> tuple[Rule, ...]:
        kind, effect = type(step.operation), step.effect
        seen = (kind, bool(effect.locks), bool(step.blocking), bool(effect.fails), step.statement.block > 0)
        found = self._rules_of.get(seen)
        if found is None:
            has = dict(zip(Needs, seen[1:], strict=True))
            meant = (rule for rule in self._rules if issubclass(kind, rule.applies))
            found = tuple(rule for rule in meant if rule.needs is None or has[rule.needs])
            self._rules_of[seen] = found
        return found

    def _report(self, rule: Rule, hit: Hit, step: Step) -> None:
        statement = step.statement
        if rule.name not in self._chosen or self._is_told(rule, hit, statement):
            return
        severity, message = hit.severity or rule.severity, hit.message
        hazard = hit.hazard or rule.hazard
        if self._before is not None and hazard in (Hazard.BREAKS_RELEASE, Hazard.LOSES_DATA):
            return  # it is undone: only its locks are felt
        if self.options.stats is not None and hazard in (Hazard.BLOCKS_ALL, Hazard.BLOCKS_WRITES):
            severity, message = _measured(self.options.stats, step, hit, severity)
        finding = Finding(
            rule.code,
            rule.name,
            severity,
            hit.target,
            message,
            hit.fix,
            self._pages_of(rule),
            {
                "file": statement.script.path,
                "line": statement.line,
                "statement": statement.text,
                "hazard": str(hazard),
            },
        )
        self.result.located.append(Located(finding, rule, hit, statement, step.operation))

    def _is_told(self, rule: Rule, hit: Hit, statement: Statement) -> bool:
        """Tell whether another clause of the statement has just given the same finding."""
        for seen in self.result.located[: -_NEAR - 1 : -1]:
            if seen.statement is not statement:
                return False
            if seen.rule is rule and seen.hit.target == hit.target:
                return True
        return False

    def _pages_of(self, rule: Rule) -> tuple[str, ...]:
        found = self._pages.get(rule.code)
        if found is None:
            found = tuple(MANUAL.format(major=self.options.major, page=page) for page in rule.source)
            self._pages[rule.code] = found
        return found


def _measured(stats: Stats, step: Step, hit: Hit, severity: Severity) -> tuple[Severity, str]:
    """Add how long it blocks; a table that is tiny makes it a warning."""
    tables = {hit.table} if hit.table else {task.table for task, _ in step.effect.blocking()}
    seen = [(table, stats.of(table)) for table in sorted(tables, key=str)]
    told = [
        stats.told(table, [task.work for task in step.effect.work if task.table == table])
        for table, size in seen
        if size
    ]
    message = f"{hit.message} ({'; '.join(told)})" if told else hit.message
    tiny = bool(seen) and all(size is not None and size.tiny for _, size in seen)
    return (Severity.WARNING if tiny else severity), message
