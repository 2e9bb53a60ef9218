"""MIG405: a change of type cuts or rounds the values that stand."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import AlterColumnType, Type
from dbsec.migrations.rule import Example, Hazard, Hit, Loses, Rule, Step
from dbsec.migrations.rules._examples import ORDERS, USERS
from dbsec.migrations.rules._expand import instead_of_change, short
from dbsec.migrations.rules._release import column
from dbsec.migrations.rules._types import loss
from dbsec.migrations.rules._words import is_empty, target


def _match(step: Step) -> Iterator[Hit]:
    change = step.operation
    assert isinstance(change, AlterColumnType)
    if is_empty(step.schema, change.table) or (step.effect.fails and not step.effect.unsure):
        return
    known = column(step, change.table, change.column)
    lost = loss(known.type if known is not None else Type(""), change)
    if not lost:
        return
    beside = short(f"{change.column}_{change.type.name}")
    yield Hit(
        target(step, change.table, change.column),
        f"'{change.column}' becomes {change.type}: {lost}, in every row, without an error",
        instead_of_change(step, change.table, change.column, beside, (known.type, change.type)) if known else "",
    )


RULE = Rule(
    code="MIG405",
    name="lossy-type-change",
    title="A change of type cuts or rounds values",
    severity=Severity.ERROR,
    hazard=Hazard.LOSES_DATA,
    applies=(AlterColumnType,),
    match=_match,
    effect="The assignment cast rounds numbers to the new scale and times to the new precision without a word, and a "
    "USING clause does whatever it says: an explicit cast to varchar(n) cuts, where the cast that ALTER makes itself "
    "refuses with 22001. The old values are gone with the rewrite.",
    instead="Add a column of the new type beside the old one and fill it; the old values stand until the old column is "
    "dropped in a later release. Where no value would be lost, prove it first with a SELECT that finds none.",
    example=Example(
        setup=ORDERS,
        bad="ALTER TABLE app.orders ALTER COLUMN total TYPE numeric(10,0);",
        good="ALTER TABLE app.orders ADD COLUMN total_rounded numeric(10,0);",
        proof=Loses("SELECT sum(total) FROM app.orders"),
    ),
    more=(
        Example(
            setup=USERS,
            bad="ALTER TABLE app.users ALTER COLUMN phone TYPE varchar(5) USING phone::varchar(5);",
            good="ALTER TABLE app.users ALTER COLUMN phone TYPE varchar(60);",
            proof=Loses("SELECT id, phone FROM app.users ORDER BY id"),
        ),
    ),
    source=("sql-altertable", "sql-createcast"),
    aliases=("change_column",),
)
