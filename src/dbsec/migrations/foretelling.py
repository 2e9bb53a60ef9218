"""What the linter foretells of each statement of a release, without a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dbsec.findings import Severity
from dbsec.migrations.effects import together
from dbsec.migrations.effects.model import Effect
from dbsec.migrations.lint import Options, lint
from dbsec.migrations.operations import Operation, TransactionControl
from dbsec.migrations.rule import Example, Hazard, Hit, Refused, Rule, Step
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script
from dbsec.migrations.statement import Origin, Statement

_Key = tuple[str, int, int, str]


def foretold(scripts: Sequence[Script], schema: Schema, major: int) -> dict[_Key, Effect]:
    """Foretell every statement that a client sends (what stands in a DO block counts for the block), by ``key``.

    ``schema`` is changed, as by ``lint``.
    """
    seen: dict[_Key, list[Effect]] = {}
    outer: list[_Key] = []

    def listen(step: Step) -> Iterator[Hit]:
        if step.statement.origin is Origin.DIRECT:
            outer[:] = [key(step.statement)]
        if not isinstance(step.operation, TransactionControl) and outer:
            seen.setdefault(outer[0], []).append(step.effect)
        return iter(())

    lint(scripts, schema=schema, options=Options(major, rules={"listens": _listener(listen)}))
    return {where: together(effects) for where, effects in seen.items()}


def key(statement: Statement) -> _Key:
    """Tell one statement of a release from another."""
    return statement.script.path, statement.line, statement.start, statement.text


def _listener(listen: object) -> Rule:
    """Make a rule that finds nothing and hears everything: the engine stays the only one that walks a release."""
    return Rule(
        code="MIG000",
        name="listens",
        title="",
        severity=Severity.WARNING,
        hazard=Hazard.UNSAFE,
        applies=(Operation,),
        match=listen,  # type: ignore[arg-type]
        effect="",
        instead="",
        example=Example("", "", "", Refused("")),
        source=(),
    )
