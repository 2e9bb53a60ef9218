"""What the linter's engine foretells of each statement that a client sends, with what its functions do inside."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from dbsec.errors import UsageError
from dbsec.findings import Severity
from dbsec.migrations import tree
from dbsec.migrations.effects import foretell, together
from dbsec.migrations.effects.model import Effect, LockMode
from dbsec.migrations.facts import builtins
from dbsec.migrations.interpret import operations_of
from dbsec.migrations.linter import Located, Options, all_rules, lint
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Block, CreateFunction, Operation, Other, Query, Refresh, TransactionControl
from dbsec.migrations.reading import literals
from dbsec.migrations.reading.parse import parse
from dbsec.migrations.rule import Example, Hazard, Hit, Refused, Rule, Step
from dbsec.migrations.runner import bodies
from dbsec.migrations.runner.bodies import Bodies, Body
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script, Unread, Wrap
from dbsec.migrations.statement import Origin, Statement

LISTENS = "runner-listens"
ALONE = "cannot run inside a transaction block"
_LOCKS_NOTHING = {
    *("CreateRoleStmt", "AlterRoleStmt", "AlterRoleSetStmt", "AlterDatabaseSetStmt", "AlterSystemStmt", "NotifyStmt"),
    *("ListenStmt", "UnlistenStmt", "CheckPointStmt", "DeallocateStmt", "PrepareStmt", "LoadStmt", "VariableShowStmt"),
    *("ConstraintsSetStmt", "DiscardStmt", "AlterDefaultPrivilegesStmt", "TransactionStmt", "ClosePortalStmt"),
}
# pg_proc's aggregates and window functions; the lists of facts/ have plain functions alone
_AGGREGATES = {
    *("count", "sum", "min", "max", "avg", "every", "bool_and", "bool_or", "bit_and", "bit_or", "bit_xor", "any_value"),
    *("array_agg", "string_agg", "json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg", "xmlagg", "mode"),
    *("stddev", "stddev_pop", "stddev_samp", "variance", "var_pop", "var_samp", "corr", "percentile_cont"),
    *("percentile_disc", "row_number", "rank", "dense_rank", "ntile", "lag", "lead", "first_value", "last_value"),
}
_CALLS = ("SelectStmt", "CallStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "ExplainStmt")
_DYNAMIC = "it runs SQL that is put together while it runs"
_DEEPEST = 3  # functions that call functions


_COMMITS = re.compile(r"\b(?:commit|rollback)(?:\s+and\s+(?:no\s+)?chain)?\s*;", re.IGNORECASE)


@dataclass(slots=True)
class Heard:
    """One statement while its operations come by. ``old``: what it locks that was there before it."""

    statement: Statement
    operations: list[Operation] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    old: dict[Name, LockMode] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    alone: bool = False
    doubts: str = ""
    commits: bool = False  # a DO block or procedure that ends transactions itself

    @property
    def effect(self) -> Effect:
        return together(self.effects)


def hear(
    scripts: Sequence[Script], schema: Schema, major: int, known_bodies: Bodies
) -> tuple[list[Heard], Sequence[Located]]:
    """Walk the release as the linter does; returns each statement with its effects, and the linter's findings.

    Errors: ``UsageError`` where a statement cannot be read.
    """
    read = [(script, *parse(script)) for script in scripts if not script.deployed]
    for _, statements, unread in read:
        for one in unread:
            _must_be_inside_a_block(one, statements)
    ear = _Ear(major, known_bodies)
    options = Options(major, rules={**all_rules(), LISTENS: ear.rule()})
    result = lint(scripts, schema=schema, options=options)
    direct = [one for _, statements, _ in read for one in statements if one.origin is Origin.DIRECT]
    shared = {(one.script.path, one.block) for one in direct if one.kind != "DoStmt"}
    found = [ear.heard.get(key(one)) or Heard(one) for one in direct]
    for heard in found:
        if heard.statement.kind == "DoStmt" and _COMMITS.search(heard.statement.text):
            heard.commits = _in_autocommit(heard.statement, shared)
        if "dbsec_dynamic" in heard.statement.node:
            heard.doubts = heard.doubts or _DYNAMIC
    for _, statements, unread in read:
        for one in unread:
            block = _block_at(one, statements)
            for heard in (one for one in found if block is not None and one.statement is block):
                heard.doubts = heard.doubts or f"a part of it cannot be read: {one.reason}"
    return found, result.located


def key(statement: Statement) -> tuple[str, int, int, str]:
    """Tell one statement of a release from another."""
    return statement.script.path, statement.line, statement.start, statement.text


def _in_autocommit(statement: Statement, shared: Collection[tuple[str, int]]) -> bool:
    """Tell of a DO block whether its number is its own: then it may commit by itself."""
    script = statement.script
    wrapped = script.wrap is Wrap.FILE or any(wrap is Wrap.FILE for _, wrap in script.sections)
    return not wrapped and (script.path, statement.block) not in shared


def _block_at(unread: Unread, statements: Sequence[Statement]) -> Statement | None:
    for one in statements:
        direct = one.kind == "DoStmt" and one.origin is Origin.DIRECT
        if direct and one.line <= unread.line <= one.line + one.text.count("\n"):
            return one
    return None


def _must_be_inside_a_block(unread: Unread, statements: Sequence[Statement]) -> None:
    if _block_at(unread, statements) is None:
        raise UsageError(f"{unread}", hint=unread.hint or f"dbsec migrate lint {unread.path}")


class _Ear:
    """A rule without findings that notes what the engine shows it."""

    def __init__(self, major: int, known_bodies: Bodies) -> None:
        self.heard: dict[tuple[str, int, int, str], Heard] = {}
        self._outer: Heard | None = None
        self._bodies: dict[Name, list[Body]] = {name: list(found) for name, found in known_bodies.items()}
        known = builtins.load(major)
        self._builtin = {*known["volatile"], *known["partly_volatile"], *known["settled"], *_AGGREGATES}

    def rule(self) -> Rule:
        words: dict[str, Any] = {"title": "", "effect": "", "instead": "", "source": ()}
        example = Example("", "", "", Refused(""))
        severity, hazard = Severity.WARNING, Hazard.UNSAFE
        return Rule(
            "MIG000",
            LISTENS,
            severity=severity,
            hazard=hazard,
            applies=(Operation,),
            match=self._hear,
            example=example,
            **words,
        )

    def _hear(self, step: Step) -> tuple[Hit, ...]:
        statement = step.statement
        met = self._outer is not None and self._outer.statement is statement
        if statement.origin is Origin.DIRECT and not met:
            self._outer = self.heard.setdefault(key(statement), Heard(statement))
            self._outer.settings = {**step.session.settings, **step.session.local}
        if self._outer is None:
            return ()
        if isinstance(step.operation, CreateFunction):
            self._learn(step)
        if not isinstance(step.operation, (TransactionControl, Block)):
            self._note(step, step.operation, step.effect)
            self._called(step, statement, 0)
        return ()

    def _note(self, step: Step, operation: Operation, effect: Effect) -> None:
        heard = self._outer
        assert heard is not None
        heard.operations.append(operation)
        heard.effects.append(effect)
        for name, mode in effect.locks:
            if literals.PLACEHOLDER in name.name:
                heard.doubts = heard.doubts or _DYNAMIC
                continue
            known = step.schema.table(name) or step.schema.view(name)
            if known is None or not known.new:
                full = known.name if known is not None else name
                heard.old[full] = max(mode, heard.old.get(full, mode))
        if not step.statement.in_transaction:
            inside = foretell(operation, step.schema, step.session, in_transaction=True)
            heard.alone |= inside.fails.endswith(ALONE) and not effect.fails.endswith(ALONE)
        if isinstance(operation, Refresh) and operation.concurrently:
            heard.alone = True  # it may run in one, but gains nothing there
        if effect.unsure:
            heard.doubts = heard.doubts or "the schema does not tell all that it locks"
        if isinstance(operation, Other) and operation.kind not in _LOCKS_NOTHING:
            heard.doubts = heard.doubts or f"nobody has measured what {operation.kind} locks"

    def _learn(self, step: Step) -> None:
        name = step.schema.qualified(step.operation.name)  # type: ignore[attr-defined] # CreateFunction
        self._bodies.setdefault(name, []).append(bodies.body_of(step.statement))

    def _called(self, step: Step, statement: Statement, depth: int) -> None:
        """Note what the functions that a statement calls do: the volatile ones, for no other may change anything."""
        if statement.kind not in _CALLS:
            return
        heard = self._outer
        assert heard is not None
        node = {"FuncCall": statement.node["funccall"]} if statement.kind == "CallStmt" else statement.node
        for name in tree.functions_in(node):
            full = self._resolved(name, step.schema)
            if full is None:
                if name.schema is not None or name.name not in self._builtin:
                    heard.doubts = heard.doubts or f"nobody knows what function '{name}' does"
                continue
            if step.schema.functions.get(full) != "volatile":
                continue
            own = self._bodies.get(full, ())
            if not own or depth >= _DEEPEST:
                heard.doubts = heard.doubts or f"nobody has read what function '{full}' does"
            for body in own:
                self._inside(step, full, body, depth)

    @staticmethod
    def _resolved(name: Name, schema: Schema) -> Name | None:
        places = (name.schema,) if name.schema else schema.search_path
        return next((full for place in places if (full := Name(place, name.name)) in schema.functions), None)

    def _inside(self, step: Step, name: Name, body: Body, depth: int) -> None:
        heard = self._outer
        assert heard is not None
        heard.commits |= heard.statement.kind == "CallStmt" and _COMMITS.search(body.source) is not None
        statements, sure = bodies.statements(body)
        if not sure:
            heard.doubts = heard.doubts or f"nobody has read what function '{name}' does"
        for inner in statements:
            for operation in operations_of(inner):
                effect = foretell(operation, step.schema, step.session, in_transaction=True)
                self._note(step, operation, effect)
            self._called(step, inner, depth + 1)


def reads(heard: Heard) -> bool:
    """Tell whether it reads relations or calls functions, which may take long."""
    return any(isinstance(one, Query) and (one.reads or one.functions) for one in heard.operations)
