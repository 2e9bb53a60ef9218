"""MIG307: a column that was nullable no longer is, and the running release may still write NULL."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import AddConstraint, SetNotNull
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import column, contract, is_foreign, is_new_column, not_null_columns
from dbsec.migrations.rules._words import ident, sql, target


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, (SetNotNull, AddConstraint))
    table = step.table()
    if contract(step) or is_foreign(step, act.table):
        return
    if isinstance(act, AddConstraint) and not act.constraint.enforced:
        return
    refused = {one for c in table.constraints if c.enforced for one in not_null_columns(c)} if table else set()
    for name in (act.column,) if isinstance(act, SetNotNull) else not_null_columns(act.constraint):
        known = column(step, act.table, name)
        if name in refused or is_new_column(step, act.table, name) or (known is not None and known.not_null):
            continue
        yield Hit(
            target(step, act.table, name),
            f"'{name}' was nullable: where the running release leaves it out or writes NULL, its statement fails from "
            "here on, NOT VALID or not",
            f"SELECT count(*) FROM {sql(act.table)} WHERE {ident(name)} IS NULL;\n"
            "-- first a release that always writes it, and this count stays 0; then this statement, in a file with "
            "'-- dbsec: phase contract'",
        )


RULE = Rule(
    code="MIG307",
    name="not-null-may-break-old-inserts",
    title="A nullable column becomes NOT NULL while the running release may write NULL",
    severity=Severity.WARNING,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(SetNotNull, AddConstraint),
    match=_match,
    effect="NOT VALID spares the rows that stand, and no other: from ADD CONSTRAINT … NOT VALID on, each INSERT and "
    "UPDATE is checked. The usual safe path to NOT NULL begins with such a constraint, and it ends the old release's "
    "right to leave the column out (23514, or 23502 for NOT NULL).",
    instead="Deploy a release that always writes the column, see that no new NULL comes in, and only then add the "
    "constraint, in a file with '-- dbsec: phase contract'. A default on the column helps inserts that leave it out.",
    example=Example(
        setup=USERS,
        bad="ALTER TABLE app.users ADD CONSTRAINT users_phone_given CHECK (phone IS NOT NULL) NOT VALID;",
        good="ALTER TABLE app.users ALTER COLUMN phone SET DEFAULT 'none';",
        proof=Breaks("INSERT INTO app.users (id, email) VALUES (5001, 'new@example.com')", "23514"),
    ),
    source=("sql-altertable", "ddl-constraints"),
    aliases=("change_column_null_postgresql", "ban-new-write-restriction"),
)
