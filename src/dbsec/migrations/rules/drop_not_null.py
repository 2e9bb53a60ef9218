"""MIG324: NULL comes to a column that the running release reads without expecting it."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import DropNotNull
from dbsec.migrations.rule import Example, Hazard, Hit, Rule, Shows, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import column, contract, is_new_column
from dbsec.migrations.rules._words import target


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, DropNotNull)
    known = column(step, act.table, act.column)
    if contract(step) or is_new_column(step, act.table, act.column):
        return
    if known is None or known.not_null:
        yield Hit(
            target(step, act.table, act.column),
            f"the running release never met NULL in '{act.column}': harmless until the new one writes it",
        )


RULE = Rule(
    code="MIG324",
    name="drop-not-null",
    title="A column of the running release becomes nullable",
    severity=Severity.WARNING,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(DropNotNull,),
    match=_match,
    effect="The catalog changes and nothing else. The harm comes with the first NULL: the running release reads it "
    "into a field that has no place for it, and its comparisons (=, <>, NOT IN) silently leave the row out.",
    instead="Deploy a release that reads NULL before one that writes it. If the aim is to drop the column later, and "
    "no release writes NULL meanwhile, this is the right first step: say so in a dbsec allow comment.",
    example=Example(
        setup=USERS,
        bad="ALTER TABLE app.users ALTER COLUMN status DROP NOT NULL;",
        good="ALTER TABLE app.users ALTER COLUMN phone DROP NOT NULL;",
        proof=Shows(
            "SELECT attnotnull::text FROM pg_attribute WHERE attrelid = 'app.users'::regclass AND attname = 'status'",
            "false",
        ),
    ),
    source=("sql-altertable",),
    aliases=("ban-drop-not-null",),
)
