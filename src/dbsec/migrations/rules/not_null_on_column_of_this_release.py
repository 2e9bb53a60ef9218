"""MIG306: a column that this release added becomes NOT NULL before the running release can write it."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.names import Name
from dbsec.migrations.operations import AddConstraint, SetNotNull
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import (
    column,
    contract,
    filling_trigger,
    fills_itself,
    is_foreign,
    is_new_column,
    knows,
    not_null_columns,
)
from dbsec.migrations.rules._words import target


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, (SetNotNull, AddConstraint))
    if not knows(step, act.table) or is_foreign(step, act.table):
        return
    names = (act.column,) if isinstance(act, SetNotNull) else not_null_columns(act.constraint)
    for name in names:
        known = column(step, act.table, name)
        if known is not None and is_new_column(step, act.table, name) and not fills_itself(known):
            if (isinstance(act, AddConstraint) and not act.constraint.enforced) or _checked(step, act.table, name):
                continue
            yield _hit(step, act.table, name)


def _checked(step: Step, table: Name, name: str) -> bool:
    """A constraint that stands already refuses NULL: it has its own finding."""
    known = step.schema.table(table)
    return known is not None and any(
        name in not_null_columns(constraint) for constraint in known.constraints if constraint.enforced
    )


def _hit(step: Step, table: Name, name: str) -> Hit:
    trigger = filling_trigger(step, table)
    unless = f", unless trigger '{trigger}' fills it" if trigger else ""
    return Hit(
        target(step, table, name),
        f"this release added '{name}' without a default, and the running release does not write it: each of its "
        f"inserts fails{unless}",
        "-- leave it nullable here, or give it a default; then, in a file with '-- dbsec: phase contract', once no "
        "client of the old release is left:\n"
        f"-- {step.statement.text.rstrip(';')};",
        severity=Severity.WARNING if trigger else contract(step),
    )


RULE = Rule(
    code="MIG306",
    name="not-null-on-column-of-this-release",
    title="A column that this release added becomes NOT NULL in the same release",
    severity=Severity.ERROR,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(SetNotNull, AddConstraint),
    match=_match,
    effect="From this statement on, NULL is refused in new rows: by NOT NULL (23502), by CHECK (x IS NOT NULL) "
    "(23514), and by both also when they are NOT VALID, which spares old rows only. The running release was made "
    "before the column was: its INSERT does not name it, and fails, on every call, until the last old client is gone.",
    instead="Add the column with a default, or with a BEFORE INSERT trigger that fills it, as long as the old release "
    "runs. Else leave it nullable in this release, and forbid NULL in the next one.",
    example=Example(
        setup=USERS,
        bad="ALTER TABLE app.users ADD COLUMN country text;\n"
        "ALTER TABLE app.users ADD CONSTRAINT users_country_given CHECK (country IS NOT NULL) NOT VALID;",
        good="ALTER TABLE app.users ADD COLUMN country text DEFAULT 'unknown';\n"
        "ALTER TABLE app.users ADD CONSTRAINT users_country_given CHECK (country IS NOT NULL) NOT VALID;",
        proof=Breaks("INSERT INTO app.users (id, email) VALUES (5001, 'new@example.com')", "23514"),
    ),
    more=(
        Example(
            setup="CREATE SCHEMA app; CREATE TABLE app.notes (id bigint PRIMARY KEY, body text);",
            bad="ALTER TABLE app.notes ADD COLUMN author text;\n"
            "ALTER TABLE app.notes ADD CONSTRAINT notes_author_given CHECK (author IS NOT NULL) NOT VALID;\n"
            "ALTER TABLE app.notes VALIDATE CONSTRAINT notes_author_given;\n"
            "ALTER TABLE app.notes ALTER COLUMN author SET NOT NULL;\n"
            "ALTER TABLE app.notes DROP CONSTRAINT notes_author_given;",
            good="ALTER TABLE app.notes ADD COLUMN author text;",
            proof=Breaks("INSERT INTO app.notes (id, body) VALUES (1, 'x')", "23502"),
        ),
    ),
    source=("sql-altertable", "ddl-constraints"),
    aliases=("adding-not-nullable-field", "change_column_null", "change_column_with_not_null"),
)
