"""MIG305: a new column must not be NULL, and nothing fills it: neither the rows that stand nor the running release."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations import tree
from dbsec.migrations.operations import AddColumn, Column, ConstraintKind
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Refused, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._expand import backfill, short
from dbsec.migrations.rules._release import fills_itself, is_foreign
from dbsec.migrations.rules._words import ident, is_empty, sql, target


def _match(step: Step) -> Iterator[Hit]:
    add = step.operation
    assert isinstance(add, AddColumn)
    table, column = step.table(), add.column
    if (
        is_empty(step.schema, add.table)
        or is_foreign(step, add.table)
        or not _never_null(step, column)
        or _filled(step, column)
    ):
        return
    if add.if_not_exists and table is not None and column.name in table.columns:
        return
    yield Hit(
        target(step, add.table, column.name),
        f"'{column.name}' is NOT NULL and has no default: ADD COLUMN fails with 23502 if there is a row, and else the "
        "inserts of the running release do",
        _fix(step, add),
    )


def _never_null(step: Step, column: Column) -> bool:
    domain = step.schema.domain(column.type)
    strict = domain is not None and any(c.kind is ConstraintKind.NOT_NULL for c in domain.constraints)
    return column.not_null or strict


def _filled(step: Step, column: Column) -> bool:
    domain = step.schema.domain(column.type)
    given = domain is not None and domain.default is not None and not tree.is_null(domain.default)
    return fills_itself(column) or (given and column.default is None)


def _fix(step: Step, add: AddColumn) -> str:
    table, column = sql(add.table), ident(add.column.name)
    value = backfill(step, add.table, f"{column} = …", f"{column} IS NULL")
    check = ident(short(f"{add.table.name}_{add.column.name}_not_null"))
    lines = [
        f"ALTER TABLE {table} ADD COLUMN {column} {add.column.type};",
        f"-- a release that writes it; backfill, a transaction each, until no row is left: {value}",
        "-- then, in a file with '-- dbsec: phase contract', once no client of the old release is left:",
    ]
    if step.major >= 18:
        return "\n".join(
            [
                *lines,
                f"-- ALTER TABLE {table} ADD CONSTRAINT {check} NOT NULL {column} NOT VALID;",
                f"-- ALTER TABLE {table} VALIDATE CONSTRAINT {check};",
            ]
        )
    return "\n".join(
        [
            *lines,
            f"-- ALTER TABLE {table} ADD CONSTRAINT {check} CHECK ({column} IS NOT NULL) NOT VALID;",
            f"-- ALTER TABLE {table} VALIDATE CONSTRAINT {check};",
            f"-- ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL;",
            f"-- ALTER TABLE {table} DROP CONSTRAINT {check};",
        ]
    )


RULE = Rule(
    code="MIG305",
    name="not-null-column-without-default",
    title="A NOT NULL column is added without a default",
    severity=Severity.ERROR,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(AddColumn,),
    match=_match,
    effect="The rows that stand get NULL in the new column, so that PostgreSQL refuses it with 23502 as soon as there "
    "is one row. On an empty table it is added, and every INSERT of the running release, which does not name it, "
    "fails.",
    instead="Add the column nullable, deploy the release that writes it, backfill in batches, and make it NOT NULL in "
    "a later release; or add it with a constant default, which PostgreSQL stores once, and let the default stand as "
    "long as the old release runs.",
    example=Example(
        setup=USERS,
        bad="ALTER TABLE app.users ADD COLUMN country text NOT NULL;",
        good="ALTER TABLE app.users ADD COLUMN country text;",
        proof=Refused("23502"),
    ),
    more=(
        Example(
            setup="CREATE SCHEMA app; CREATE TABLE app.notes (id bigint PRIMARY KEY, body text);",
            bad="ALTER TABLE app.notes ADD COLUMN author text NOT NULL;",
            good="ALTER TABLE app.notes ADD COLUMN author text NOT NULL DEFAULT 'unknown';",
            proof=Breaks("INSERT INTO app.notes (id, body) VALUES (1, 'x')", "23502"),
        ),
    ),
    source=("sql-altertable", "ddl-alter"),
    aliases=("adding-not-nullable-field", "adding-required-field"),
)
