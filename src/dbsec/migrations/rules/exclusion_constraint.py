"""EXCLUDE on a table that holds rows."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import AddConstraint, ConstraintKind
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules._words import blocked, ident, target, told


def _match(step: Step) -> Iterator[Hit]:
    operation = step.operation
    assert isinstance(operation, AddConstraint)
    found = blocked(step)
    if operation.constraint.kind is not ConstraintKind.EXCLUDE or not found:
        return
    named = f" CONSTRAINT {ident(operation.constraint.name)}" if operation.constraint.name else ""
    message = told(step, f"ADD{named} EXCLUDE", found, why=False)
    yield Hit(target(step, operation.table), f"{message}; PostgreSQL has no way to build it beside running writes")


RULE = Rule(
    code="MIG109",
    name="exclusion-constraint",
    title="EXCLUDE builds its index under ACCESS EXCLUSIVE, and there is no concurrent way",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(AddConstraint,),
    needs=Needs.BLOCKING,
    match=_match,
    effect="ADD CONSTRAINT … EXCLUDE builds its index (mostly GiST, which is slow to build) under ACCESS EXCLUSIVE. "
    "It knows neither NOT VALID nor USING INDEX.",
    instead="Create a new table that has the constraint from the start, write to both by trigger, copy the old rows "
    "in batches, and exchange the names in one transaction. Or stop the writers on purpose, for as long as a copy of "
    "the table needs to build it.",
    example=Example(
        setup="CREATE TABLE bookings (room int4range, during tsrange);\n"
        "INSERT INTO bookings SELECT int4range(n, n + 1), tsrange(NULL, NULL) FROM generate_series(1, 1000) AS n;",
        bad="ALTER TABLE bookings ADD CONSTRAINT bookings_once EXCLUDE USING gist (room WITH &&, during WITH &&);",
        good="CREATE TABLE bookings_once (room int4range, during tsrange,"
        " EXCLUDE USING gist (room WITH &&, during WITH &&));",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "bookings", Work.BUILD),
    ),
    source=("sql-altertable", "ddl-constraints"),
    aliases=("add_exclusion_constraint", "E8"),
)
