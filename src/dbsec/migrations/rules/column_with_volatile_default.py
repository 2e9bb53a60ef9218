"""ADD COLUMN whose default is another for each row."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import AddColumn
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules._columns import Cause, in_steps, rewrite_cause
from dbsec.migrations.rules._words import blocked, ident, target, told


def _match(step: Step) -> Iterator[Hit]:
    operation = step.operation
    assert isinstance(operation, AddColumn)
    if rewrite_cause(step) is Cause.DEFAULT:
        act = f"ADD COLUMN {ident(operation.column.name)}"
        where = target(step, operation.table, operation.column.name)
        yield Hit(where, told(step, act, blocked(step)), in_steps(step))


RULE = Rule(
    code="MIG202",
    name="column-with-volatile-default",
    title="A default that must be computed for each row writes the whole table anew",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(AddColumn,),
    needs=Needs.BLOCKING,
    match=_match,
    effect="A constant or stable default (0, 'new', now()) is kept once in the catalog. A volatile one (random(), "
    "gen_random_uuid(), clock_timestamp(), nextval) is computed for each row, so that ADD COLUMN writes all of them, "
    "and all indexes, under ACCESS EXCLUSIVE.",
    instead="Add the column without it, SET DEFAULT for the rows to come, and fill those that stand in batches, each "
    "in its own transaction.",
    example=Example(
        setup="CREATE TABLE users (id bigint PRIMARY KEY);\nINSERT INTO users SELECT generate_series(1, 1000);",
        bad="ALTER TABLE users ADD COLUMN token uuid DEFAULT gen_random_uuid();",
        good="ALTER TABLE users ADD COLUMN token uuid;\n"
        "ALTER TABLE users ALTER COLUMN token SET DEFAULT gen_random_uuid();\n"
        "UPDATE users SET token = DEFAULT WHERE id BETWEEN 1 AND 1000 AND token IS NULL;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "users", Work.REWRITE),
    ),
    source=("sql-altertable", "xfunc-volatility"),
    aliases=("adding-field-with-default", "add_column_default", "add_column_default_callable", "E10"),
)
