"""MIG401: a table goes with its rows."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Drop
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Loses, Rule, Step
from dbsec.migrations.rules._examples import ORDERS, USERS
from dbsec.migrations.rules._release import absent, contract, knows
from dbsec.migrations.rules._words import ident, sql, target


def _match(step: Step) -> Iterator[Hit]:
    drop = step.operation
    assert isinstance(drop, Drop)
    if drop.kind not in ("table", "foreign table") or not knows(step, drop.name):
        return
    if drop.if_exists and absent(step, drop.name):
        return
    reached = _reached(step, drop)
    yield Hit(
        target(step, drop.name),
        f"the rows of '{drop.name}' are gone, and the running release's statements on it fail with 42P01{reached}",
        _fix(drop),
        severity=None if reached else contract(step),
    )


def _reached(step: Step, drop: Drop) -> str:
    """Name what CASCADE takes along; where the schema is not known, say that it may be anything."""
    if not drop.cascade:
        return ""
    table = step.schema.table(drop.name)
    if table is None:
        return "; CASCADE also drops whatever depends on it: views, foreign keys, functions"
    views = [str(view.name) for view in step.schema.views_on(table.name)]
    keys = [
        f"foreign key of {other.name}" for other, _ in step.schema.referencing(table.name) if other.name != table.name
    ]
    parts = [str(part.name) for part in step.schema.partitions(table.name)]
    found = views + keys + parts
    return f"; CASCADE also drops {', '.join(dict.fromkeys(found))}" if found else ""


def _fix(drop: Drop) -> str:
    table = sql(drop.name)
    kept = ident(f"{drop.name.name}_dropped")
    return "\n".join(
        [
            "-- now: a release that does not use the table",
            "-- then, in a file with '-- dbsec: phase contract', once pg_stat_user_tables shows that nobody does:",
            f"-- ALTER TABLE {table} RENAME TO {kept};",
            "-- and after the days in which somebody may miss it, and a backup:",
            f"-- DROP TABLE {sql(Name(drop.name.schema, drop.name.name + '_dropped'))};",
        ]
    )


RULE = Rule(
    code="MIG401",
    name="drop-table",
    title="A table is dropped with its rows",
    severity=Severity.ERROR,
    hazard=Hazard.LOSES_DATA,
    applies=(Drop,),
    match=_match,
    effect="The files are deleted at commit; only a backup brings the rows back. ACCESS EXCLUSIVE is taken on the "
    "table and on every table that a foreign key joins it with. CASCADE drops views, foreign keys and policies that "
    "depend on it, and says so in a NOTICE only.",
    instead="Deploy a release that does not use the table, rename it in a later one (a mistake is undone in a moment), "
    "and drop it when nobody has missed it, in a file with '-- dbsec: phase contract'.",
    example=Example(
        setup=USERS,
        bad="DROP TABLE app.users;",
        good="COMMENT ON TABLE app.users IS 'no longer used, to be dropped after 2027-01-01';",
        proof=Loses("SELECT * FROM app.users ORDER BY id"),
    ),
    more=(
        Example(
            setup=ORDERS + "CREATE VIEW app.spent AS SELECT user_id, sum(total) FROM app.orders GROUP BY user_id;\n",
            bad="DROP TABLE app.orders CASCADE;",
            good="CREATE TABLE app.scratch (id bigint PRIMARY KEY); DROP TABLE app.scratch CASCADE;",
            proof=Breaks("SELECT * FROM app.spent WHERE user_id = 7", "42P01"),
        ),
    ),
    source=("sql-droptable", "ddl-depend"),
    aliases=("ban-drop-table", "create_table", "drop_table"),
)
