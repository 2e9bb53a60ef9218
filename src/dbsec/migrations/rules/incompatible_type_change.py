"""MIG312: a column gets a type that the running release does not expect."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import AlterColumnType
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Rule, Step
from dbsec.migrations.rules._examples import ORDERS, USERS
from dbsec.migrations.rules._expand import instead_of_change, short
from dbsec.migrations.rules._release import column, contract, is_new_column
from dbsec.migrations.rules._types import family, loss
from dbsec.migrations.rules._words import target

_ZONED = {("timestamp", 0), ("timestamptz", 0)}


def _match(step: Step) -> Iterator[Hit]:
    change = step.operation
    assert isinstance(change, AlterColumnType)
    known = column(step, change.table, change.column)
    if known is None:
        return
    if is_new_column(step, change.table, change.column):
        return
    before, after = family(step, known.type), family(step, change.type)
    if before == after or loss(known.type, change) or (step.effect.fails and not step.effect.unsure):
        return
    blocks = bool(step.effect.blocking())
    yield Hit(
        target(step, change.table, change.column),
        f"'{change.column}' was {known.type} and becomes {change.type}: comparisons, parameters and results of the "
        "running release have the old type",
        instead_of_change(
            step,
            change.table,
            change.column,
            short(f"{change.column}_{change.type.name}"),
            (known.type, change.type),
        ),
        severity=Severity.WARNING if blocks or {before, after} == _ZONED else contract(step),
    )


RULE = Rule(
    code="MIG312",
    name="incompatible-type-change",
    title="A column gets another type than the running release expects",
    severity=Severity.ERROR,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(AlterColumnType,),
    match=_match,
    effect="Operators and functions are chosen by type: what was number = number finds no operator any more (42883), a "
    "parameter that the driver sends as one type does not fit the other (42804), and results come back as other "
    "classes: a string for a number, an aware datetime for a naive one. That the change rewrites the table is another "
    "finding; it makes this one a warning.",
    instead="Add a column of the new type beside the old one, keep both alike by a trigger, backfill in batches, move "
    "the application, and drop the old column in a later release.",
    example=Example(
        setup=ORDERS,
        bad="ALTER TABLE app.orders ALTER COLUMN total TYPE text;",
        good="ALTER TABLE app.orders ADD COLUMN total_text text;",
        proof=Breaks("SELECT count(*) FROM app.orders WHERE total > 100", "42883"),
    ),
    more=(
        Example(
            setup=USERS + "ALTER TABLE app.users ADD COLUMN profile json;\n",
            bad="ALTER TABLE app.users ALTER COLUMN profile TYPE jsonb;",
            good="ALTER TABLE app.users ADD COLUMN profile_jsonb jsonb;",
            proof=Breaks("SELECT count(json_typeof(profile)) FROM app.users", "42883"),
        ),
    ),
    source=("sql-altertable", "typeconv-oper"),
    aliases=("changing-column-type", "change_column"),
)
