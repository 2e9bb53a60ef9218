"""MIG407: a table is no longer in the WAL: a crash empties it."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.names import Name
from dbsec.migrations.operations import SetPersistence
from dbsec.migrations.rule import Example, Hazard, Hit, Rule, Shows, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import knows
from dbsec.migrations.rules._words import sql, target


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, SetPersistence)
    table = step.table()
    if act.logged or not knows(step, act.table) or (table is not None and table.persistence == "unlogged"):
        return
    beside = Name(act.table.schema, f"{act.table.name}_load")
    yield Hit(
        target(step, act.table),
        f"'{act.table}' is empty after a crash of the server, and on every standby and in every PITR from here on",
        "-- load into a table beside it, then move the rows in batches:\n"
        f"CREATE UNLOGGED TABLE {sql(beside)} (LIKE {sql(act.table)} INCLUDING DEFAULTS);",
    )


RULE = Rule(
    code="MIG407",
    name="set-unlogged",
    title="A table that holds data becomes UNLOGGED",
    severity=Severity.ERROR,
    hazard=Hazard.LOSES_DATA,
    applies=(SetPersistence,),
    match=_match,
    effect="An unlogged table is not in the WAL: PostgreSQL empties it after any unclean stop, standbys have no row of "
    "it, and a base backup brings it back empty. Setting it LOGGED again later rewrites it into the WAL, under ACCESS "
    "EXCLUSIVE; the time between is not covered by any backup.",
    instead="Load into an unlogged table of its own and move the rows from there in batches; keep what must last "
    "LOGGED.",
    example=Example(
        setup=USERS,
        bad="ALTER TABLE app.users SET UNLOGGED;",
        good="CREATE UNLOGGED TABLE app.users_load (LIKE app.users);",
        proof=Shows("SELECT relpersistence::text FROM pg_class WHERE oid = 'app.users'::regclass", "u"),
    ),
    source=("sql-createtable", "sql-altertable"),
)
