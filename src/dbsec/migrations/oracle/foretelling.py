"""What the linter foretells of each statement of a release, without a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dbsec.findings import Severity
from dbsec.migrations.effects import together
from dbsec.migrations.effects.model import Effect
from dbsec.migrations.linter import Options, lint
from dbsec.migrations.operations import Operation, TransactionControl
from dbsec.migrations.rule import Example, Hazard, Hit, Refused, Rule, Step
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script
from dbsec.migrations.statement import Origin, Statement

LISTENS = "listens"
Key = tuple[str, int, int, str]


def foretold(scripts: Sequence[Script], schema: Schema, major: int) -> dict[Key, Effect]:
    """Foretell every statement that a client sends (what stands in a DO block counts for the block), by ``key``.

    ``schema`` is changed, as by ``lint``.
    """
    listener = Listener()
    lint(scripts, schema=schema, options=Options(major, rules={LISTENS: listener.rule()}))
    return listener.heard()


class Listener:
    """Hears every effect beside the rules: the engine of the linter stays the only one that walks a release."""

    def __init__(self) -> None:
        self._effects: dict[Key, list[Effect]] = {}
        self._outer: Key | None = None

    def heard(self) -> dict[Key, Effect]:
        """Join what was heard of each statement."""
        return {where: together(effects) for where, effects in self._effects.items()}

    def rule(self) -> Rule:
        """Make the rule, which finds nothing."""
        example = Example("", "", "", Refused(""))
        words: dict[str, Any] = {"title": "", "effect": "", "instead": "", "example": example, "source": ()}
        severity, hazard = Severity.WARNING, Hazard.UNSAFE
        return Rule(
            "MIG000", LISTENS, severity=severity, hazard=hazard, applies=(Operation,), match=self._hear, **words
        )

    def _hear(self, step: Step) -> tuple[Hit, ...]:
        if step.statement.origin is Origin.DIRECT:
            self._outer = key(step.statement)
        if self._outer is not None and not isinstance(step.operation, TransactionControl):
            self._effects.setdefault(self._outer, []).append(step.effect)
        return ()


def key(statement: Statement) -> Key:
    """Tell one statement of a release from another."""
    return statement.script.path, statement.line, statement.start, statement.text
