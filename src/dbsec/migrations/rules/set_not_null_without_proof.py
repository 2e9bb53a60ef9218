"""NOT NULL whose proof is a scan under ACCESS EXCLUSIVE."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import AddConstraint, ConstraintKind, SetNotNull
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules import _fixes
from dbsec.migrations.rules._words import blocked, ident, target, told


def _match(step: Step) -> Iterator[Hit]:
    operation, found = step.operation, blocked(step)
    if isinstance(operation, SetNotNull) and found:
        where = target(step, operation.table, operation.column)
        message = told(step, f"ALTER COLUMN {ident(operation.column)} SET NOT NULL", found)
        if _fixes.unproven_not_null(step.table(), operation.column) is not None:
            message += "; that a NOT VALID constraint stands does not help, only VALIDATE CONSTRAINT proves it"
        yield Hit(where, message, _fixes.lines(_fixes.not_null(step, operation.table, operation.column)))
    elif isinstance(operation, AddConstraint) and operation.constraint.kind is ConstraintKind.NOT_NULL and found:
        column, name = operation.constraint.columns[0], operation.constraint.name
        name = name or _fixes.named(step.schema, operation.table, (column,), "not_null")
        fix = _fixes.lines(_fixes.not_valid(operation.table, name, f"NOT NULL {ident(column)}"))
        yield Hit(target(step, operation.table, column), told(step, f"ADD NOT NULL {ident(column)}", found), fix)


_USERS = (
    "CREATE TABLE users (id bigint PRIMARY KEY, email text);\n"
    "INSERT INTO users SELECT n, n FROM generate_series(1, 1000) AS n;\n"
)

RULE = Rule(
    code="MIG206",
    name="set-not-null-without-proof",
    title="SET NOT NULL reads the whole table under ACCESS EXCLUSIVE, unless a constraint proves it",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(SetNotNull, AddConstraint),
    needs=Needs.BLOCKING,
    match=_match,
    effect="SET NOT NULL looks at every row while nobody may read the table. A validated CHECK (x IS NOT NULL) spares "
    "it that; a NOT NULL … NOT VALID of version 18 does not: SET NOT NULL over it scans under ACCESS EXCLUSIVE.",
    instead="From 18 on: ADD CONSTRAINT … NOT NULL x NOT VALID, then VALIDATE CONSTRAINT, and no SET NOT NULL. "
    "Before: CHECK (x IS NOT NULL) NOT VALID, VALIDATE CONSTRAINT, SET NOT NULL, drop the CHECK. Either refuses from "
    "its first step on what the running release writes without a value.",
    example=Example(
        setup=_USERS,
        bad="ALTER TABLE users ALTER COLUMN email SET NOT NULL;",
        good="ALTER TABLE users ADD CONSTRAINT users_email_not_null CHECK (email IS NOT NULL) NOT VALID;\n"
        "ALTER TABLE users VALIDATE CONSTRAINT users_email_not_null;\n"
        "ALTER TABLE users ALTER COLUMN email SET NOT NULL;\n"
        "ALTER TABLE users DROP CONSTRAINT users_email_not_null;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "users", Work.SCAN),
    ),
    source=("sql-altertable",),
    aliases=("adding-not-nullable-field", "change_column_null", "change_column_null_postgresql", "E2"),
    mechanical=True,
)
