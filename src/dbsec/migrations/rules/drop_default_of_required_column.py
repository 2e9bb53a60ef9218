"""MIG308: what filled a column for those who leave it out is gone, and the running release leaves it out."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations import tree
from dbsec.migrations.operations import AlterIdentity, Column, DropDefault, DropExpression, SetDefault
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Loses, Rule, Step
from dbsec.migrations.rules._examples import ORDERS, USERS
from dbsec.migrations.rules._release import column, contract, fills_itself, is_new_column, knows
from dbsec.migrations.rules._words import ident, sql, target


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, (DropDefault, SetDefault, AlterIdentity, DropExpression))
    if isinstance(act, SetDefault) and not tree.is_null(act.default):
        return
    if isinstance(act, AlterIdentity) and act.act != "drop":
        return
    if act.relation != "table" or not knows(step, act.table):
        return
    known = column(step, act.table, act.column)
    if known is not None and not fills_itself(known):
        return
    yield from _judged(step, act, known)


def _judged(
    step: Step, act: DropDefault | SetDefault | AlterIdentity | DropExpression, known: Column | None
) -> Iterator[Hit]:
    where = target(step, act.table, act.column)
    if known is None or known.not_null or isinstance(act, AlterIdentity):
        if_not_null = "" if known is not None else " if the column is NOT NULL"
        yield Hit(
            where,
            f"the inserts of the running release that leave '{act.column}' out fail with 23502 from here "
            f"on{if_not_null}",
            _fix(act),
            severity=contract(step),
        )
    elif not is_new_column(step, act.table, act.column):
        message = f"rows of the running release that leave '{act.column}' out get NULL from here on"
        yield Hit(where, message, _fix(act), severity=Severity.WARNING)


def _fix(act: DropDefault | SetDefault | AlterIdentity | DropExpression) -> str:
    return (
        "-- leave it as it is; then, in a file with '-- dbsec: phase contract', once no client of the old release is "
        "left:\n"
        f"-- ALTER TABLE {sql(act.table)} "
        f"{act.clause.strip().rstrip(';') or f'ALTER COLUMN {ident(act.column)} DROP DEFAULT'};"
    )


RULE = Rule(
    code="MIG308",
    name="drop-default-of-required-column",
    title="The default of a column is dropped while the running release relies on it",
    severity=Severity.ERROR,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(DropDefault, SetDefault, AlterIdentity, DropExpression),
    match=_match,
    effect="DROP DEFAULT, DROP IDENTITY and DROP EXPRESSION change the catalog only. An INSERT that does not name the "
    "column then puts NULL into it: 23502 where it is NOT NULL, a hole in the data where it is not. A column that the "
    "same release added (ADD COLUMN … NOT NULL DEFAULT …, then DROP DEFAULT, as Django writes it) is the usual case: "
    "the running release cannot name it.",
    instead="Keep the default as long as the old release runs; a constant default costs nothing. Drop it in a later "
    "release, in a file with '-- dbsec: phase contract'.",
    example=Example(
        setup=USERS,
        bad="ALTER TABLE app.users ADD COLUMN country text NOT NULL DEFAULT 'unknown';\n"
        "ALTER TABLE app.users ALTER COLUMN country DROP DEFAULT;",
        good="ALTER TABLE app.users ADD COLUMN country text NOT NULL DEFAULT 'unknown';",
        proof=Breaks("INSERT INTO app.users (id, email) VALUES (5001, 'new@example.com')", "23502"),
    ),
    more=(
        Example(
            setup=ORDERS,
            bad="ALTER TABLE app.orders ALTER COLUMN id DROP IDENTITY;",
            good="ALTER TABLE app.orders ALTER COLUMN id SET GENERATED ALWAYS;",
            proof=Breaks("INSERT INTO app.orders (user_id, total) VALUES (7, 1)", "23502"),
        ),
        Example(
            setup=USERS + "ALTER TABLE app.users ALTER COLUMN status DROP NOT NULL;\n",
            bad="ALTER TABLE app.users ALTER COLUMN status SET DEFAULT NULL;\n"
            "INSERT INTO app.users (id, email) VALUES (5001, 'new@example.com');\n"
            "DELETE FROM app.users WHERE id = 5001 AND status IS NOT NULL;",
            good="INSERT INTO app.users (id, email) VALUES (5001, 'new@example.com');\n"
            "DELETE FROM app.users WHERE id = 5001 AND status IS NOT NULL;",
            proof=Loses("SELECT count(*) FROM app.users"),
        ),
    ),
    source=("sql-altertable", "ddl-default"),
    aliases=("ban-drop-default", "ban-drop-generated-expression", "ban-alter-identity", "change_column_default"),
)
