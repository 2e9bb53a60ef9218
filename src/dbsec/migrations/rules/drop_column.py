"""MIG301: a column goes while the running release still reads and writes it."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import DropColumn
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Loses, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import absent, column, contract, is_new_column
from dbsec.migrations.rules._words import ident, sql, target


def _match(step: Step) -> Iterator[Hit]:
    drop = step.operation
    assert isinstance(drop, DropColumn)
    table = step.table()
    missing = table is not None and bool(table.columns) and drop.column not in table.columns
    if is_new_column(step, drop.table, drop.column) or (missing and step.schema.known):
        return
    if drop.if_exists and absent(step, drop.table):
        return
    views = "" if not drop.cascade else _views(step, drop)
    yield Hit(
        target(step, drop.table, drop.column),
        f"the running release still names '{drop.column}': its statements fail with 42703, and the values are "
        f"gone{views}",
        _fix(step, drop),
        severity=None if drop.cascade else contract(step),
    )


def _views(step: Step, drop: DropColumn) -> str:
    table = step.table()
    if table is None:
        return "; CASCADE also drops every view, policy, key and generated column that uses it"
    using = [
        str(view.name)
        for view in step.schema.views_on(table.name)
        if any(read in (drop.column, "*") for _, read in view.columns_read)
    ]
    return f"; CASCADE also drops {', '.join(using)}" if using else ""


def _fix(step: Step, drop: DropColumn) -> str:
    known = column(step, drop.table, drop.column)
    lines = []
    if known is not None and known.not_null and known.default is None:
        lines = [f"ALTER TABLE {sql(drop.table)} ALTER COLUMN {ident(drop.column)} DROP NOT NULL;"]
    return "\n".join(
        [
            "-- now: a release that neither reads nor writes the column (an ORM: leave it out of the model)",
            *lines,
            "-- then, in a file with '-- dbsec: phase contract', once no client of the old release is left:",
            f"-- ALTER TABLE {sql(drop.table)} DROP COLUMN {ident(drop.column)};",
        ]
    )


RULE = Rule(
    code="MIG301",
    name="drop-column",
    title="A column is dropped that the running release uses",
    severity=Severity.ERROR,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(DropColumn,),
    match=_match,
    effect="DROP COLUMN is quick: it hides the column in the catalog under ACCESS EXCLUSIVE. From then on each "
    "statement of the running release that names the column fails with 42703 (undefined_column), ORMs name all columns "
    "in every SELECT, and no rollback of the release brings the values back.",
    instead="First deploy a release that does not name the column; where the column is NOT NULL without a default, "
    "drop NOT NULL before, so that the new release can leave it out. Drop it in a later release, in a file with '-- "
    "dbsec: phase contract'.",
    example=Example(
        setup=USERS,
        bad="ALTER TABLE app.users DROP COLUMN phone;",
        good="ALTER TABLE app.users ALTER COLUMN phone DROP NOT NULL;",
        proof=Breaks("SELECT id, email, phone FROM app.users WHERE id = 7", "42703"),
    ),
    more=(
        Example(
            setup=USERS,
            bad="ALTER TABLE app.users DROP COLUMN IF EXISTS phone CASCADE;",
            good="ALTER TABLE app.users ADD COLUMN mobile text; ALTER TABLE app.users DROP COLUMN mobile;",
            proof=Loses("SELECT id, phone FROM app.users ORDER BY id"),
        ),
    ),
    source=("sql-altertable", "ddl-alter"),
    aliases=("ban-drop-column", "remove_column", "remove_columns"),
)
