"""MIG322: what ON CONFLICT leans on goes."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import ConstraintKind, Drop, DropConstraint
from dbsec.migrations.rule import Breaks, Example, Hazard, Hit, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import contract, knows
from dbsec.migrations.rules._words import columns, target
from dbsec.migrations.schema.model import Table


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, (DropConstraint, Drop))
    table, name = _dropped(step, act)
    if table is None or table.kind == "materialized view" or contract(step) or not knows(step, table.name):
        return
    keys = _unique(table)
    gone = keys.get(name)
    if not gone or "" in gone or any(set(other) == set(gone) for one, other in keys.items() if one != name):
        return
    yield Hit(
        target(step, table.name, name),
        f"INSERT … ON CONFLICT ({columns(gone)}) of the running release fails with 42P10 from here on, and other "
        "inserts no longer meet a duplicate",
    )


def _dropped(step: Step, act: DropConstraint | Drop) -> tuple[Table | None, str]:
    if isinstance(act, DropConstraint):
        return step.schema.table(act.table), act.name
    index = step.schema.index(act.name) if act.kind == "index" else None
    return (step.schema.table(index.table) if index else None), act.name.name


def _unique(table: Table) -> dict[str, tuple[str, ...]]:
    """Unique keys by the name of their index or constraint; a partial index is none."""
    kinds = (ConstraintKind.UNIQUE, ConstraintKind.PRIMARY_KEY)
    found = {one.name: one.columns for one in table.of_kind(*kinds) if one.name}
    found |= {
        index.name: index.columns
        for index in table.indexes.values()
        if index.unique and index.valid and not index.predicate
    }
    return found


RULE = Rule(
    code="MIG322",
    name="drop-unique-constraint",
    title="A unique key is dropped that ON CONFLICT of the running release may name",
    severity=Severity.WARNING,
    hazard=Hazard.BREAKS_RELEASE,
    applies=(DropConstraint, Drop),
    match=_match,
    effect="ON CONFLICT (column) needs a unique index over exactly these columns when the statement is planned; "
    "without one it fails with 42P10, whatever the rows are. Inserts without it go through twice.",
    instead="Build the unique index that follows first (CREATE UNIQUE INDEX CONCURRENTLY), deploy the release that "
    "names its columns, and drop the old one afterwards.",
    example=Example(
        setup=USERS,
        bad="ALTER TABLE app.users DROP CONSTRAINT users_email_key;",
        good="CREATE UNIQUE INDEX CONCURRENTLY users_email_again ON app.users (email);\n"
        "ALTER TABLE app.users DROP CONSTRAINT users_email_key;",
        proof=Breaks(
            "INSERT INTO app.users (id, email) VALUES (5001, 'user7@example.com') ON CONFLICT (email) DO NOTHING",
            "42P10",
        ),
    ),
    source=("sql-insert", "sql-altertable"),
    aliases=("ban-drop-constraint",),
)
