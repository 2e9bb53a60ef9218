"""MIG316: a column of a type that cannot be compared makes DISTINCT and GROUP BY over all columns fail."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import AddColumn, AlterColumnType
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._expand import WITHOUT_EQUALITY
from dbsec.migrations.rules._release import knows
from dbsec.migrations.rules._words import ident, sql, target


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, (AddColumn, AlterColumnType))
    name, type_ = (act.column.name, act.column.type) if isinstance(act, AddColumn) else (act.column, act.type)
    if type_.name not in WITHOUT_EQUALITY or type_.schema is not None or not knows(step, act.table):
        return
    fix = ""
    if type_.name == "json" and isinstance(act, AddColumn) and not type_.array:
        fix = f"ALTER TABLE {sql(act.table)} ADD COLUMN {ident(name)} jsonb;"
    yield Hit(
        target(step, act.table, name),
        f"type {type_} has no equality operator for DISTINCT: SELECT DISTINCT *, GROUP BY and UNION over all columns "
        f"of '{act.table}' fail with 42883 once '{name}' is there",
        fix,
    )


RULE = Rule(
    code="MIG316",
    name="column-without-equality",
    title="A column of type json, or of another type without equality, is added",
    severity=Severity.WARNING,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(AddColumn, AlterColumnType),
    match=_match,
    effect="json, xml and the geometric types have no operator class for equality. A statement of the running release "
    "that compares whole rows or all columns (SELECT DISTINCT u.*, UNION, GROUP BY, IS DISTINCT FROM on rows) fails "
    "with 42883 as soon as the table has such a column, without naming it.",
    instead="Use jsonb for JSON. For the others, let the statements name their columns first.",
    example=Example(
        setup=USERS,
        bad="ALTER TABLE app.users ADD COLUMN profile json;",
        good="ALTER TABLE app.users ADD COLUMN profile jsonb;",
        proof=Breaks("SELECT DISTINCT u.* FROM app.users AS u", "42883"),
    ),
    source=("datatype-json", "queries-union"),
    aliases=("add_column_json", "E3"),
)
