"""MIG402: a table is emptied."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Truncate
from dbsec.migrations.rule import Example, Hazard, Hit, Loses, Rule, Step
from dbsec.migrations.rules._examples import ORDERS, USERS
from dbsec.migrations.rules._expand import BATCH, key_of
from dbsec.migrations.rules._release import knows
from dbsec.migrations.rules._words import ident, sql, target


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, Truncate)
    for name in act.tables:
        if knows(step, name):
            yield Hit(
                target(step, name),
                f"every row of '{name}' is gone at commit, while reads and writes wait behind ACCESS EXCLUSIVE"
                + _reached(step, act, name),
                _fix(step, name),
            )


def _reached(step: Step, act: Truncate, name: Name) -> str:
    if not act.cascade:
        return ""
    table = step.schema.table(name)
    if table is None:
        return "; CASCADE also empties every table that refers to it, and those that refer to them"
    reached: dict[Name, None] = {table.name: None}
    for found in reached_from(step, table.name):
        reached[found] = None
    others = [str(other) for other in reached if other != table.name]
    return f"; CASCADE also empties {', '.join(others)}" if others else ""


def reached_from(step: Step, name: Name) -> list[Name]:
    """List the tables that refer to a table by foreign keys, directly or through others."""
    found: dict[Name, None] = {}
    waiting = [name]
    while waiting:
        for other, _ in step.schema.referencing(waiting.pop()):
            if other.name not in found and other.name != name:
                found[other.name] = None
                waiting.append(other.name)
    return list(found)


def _fix(step: Step, name: Name) -> str:
    picked = ident(key_of(step, name) or "ctid")
    return (
        "-- if the rows shall go: in batches, a transaction each, until no row is left, and VACUUM afterwards:\n"
        f"-- DELETE FROM {sql(name)} WHERE {picked} IN (SELECT {picked} FROM {sql(name)} LIMIT {BATCH});"
    )


RULE = Rule(
    code="MIG402",
    name="truncate",
    title="A table is truncated",
    severity=Severity.ERROR,
    hazard=Hazard.LOSES_DATA,
    applies=(Truncate,),
    match=_match,
    effect="TRUNCATE swaps the table's files for empty ones under ACCESS EXCLUSIVE, runs no DELETE trigger, asks no "
    "row security, and fires no event trigger. CASCADE does the same to every table that refers to it, however far. A "
    "snapshot that is older sees an empty table too.",
    instead="Delete the rows that shall go in batches, or let the application leave the table first and drop it later. "
    "In a test fixture, keep it out of the migrations.",
    example=Example(
        setup=USERS,
        bad="TRUNCATE app.users;",
        good="CREATE TABLE app.import (id bigint PRIMARY KEY);\nTRUNCATE app.import;",
        proof=Loses("SELECT count(*) FROM app.users"),
    ),
    more=(
        Example(
            setup=ORDERS,
            bad="TRUNCATE app.users CASCADE;",
            good="DELETE FROM app.orders WHERE id = -1;",
            proof=Loses("SELECT count(*) FROM app.orders"),
        ),
    ),
    source=("sql-truncate",),
    aliases=("ban-truncate-cascade",),
)
