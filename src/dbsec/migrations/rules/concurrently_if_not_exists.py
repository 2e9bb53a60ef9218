"""MIG509: IF NOT EXISTS takes the INVALID index of a failed try for the index."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.names import Name
from dbsec.migrations.operations import CreateIndex, Drop
from dbsec.migrations.rule import Example, Hazard, Hit, Rule, Step, Warned
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import knows
from dbsec.migrations.rules._words import sql, target


def _match(step: Step) -> Iterator[Hit]:
    create = step.operation
    assert isinstance(create, CreateIndex)
    if not (create.concurrently and create.if_not_exists and create.name) or not knows(step, create.table):
        return
    if any(isinstance(act, Drop) and act.kind == "index" and act.name.name == create.name for _, act in step.preceding):
        return
    table = step.schema.table(create.table)
    if step.schema.known and table is not None and create.name not in table.indexes:
        ending = "a second run skips it"
    else:
        ending = "it is skipped"
    index = Name(table.name.schema if table is not None else create.table.schema, create.name)
    text = step.statement.text.rstrip(";")
    yield Hit(
        target(step, create.table),
        f"where a failed try left '{create.name}' INVALID, {ending} with a NOTICE, and the index serves no query",
        f"DROP INDEX CONCURRENTLY IF EXISTS {sql(index)};\n{text};",
    )


RULE = Rule(
    code="MIG509",
    name="concurrently-if-not-exists",
    title="CREATE INDEX CONCURRENTLY IF NOT EXISTS",
    severity=Severity.WARNING,
    hazard=Hazard.UNSAFE,
    applies=(CreateIndex,),
    match=_match,
    effect="CREATE INDEX CONCURRENTLY that fails (a timeout, a deadlock, a duplicate in a unique index) leaves an "
    "index that is INVALID: every write keeps it up, no query uses it. IF NOT EXISTS asks for the name only, says "
    "42P07 in a NOTICE, and the migration counts as done.",
    instead="DROP INDEX CONCURRENTLY IF EXISTS before it, where the index is this migration's own. Or leave IF NOT "
    "EXISTS out, so that a left-over is an error.",
    example=Example(
        setup=USERS + "CREATE INDEX users_phone_idx ON app.users (phone);\n"
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'app.users_phone_idx'::regclass;\n",
        bad="CREATE INDEX CONCURRENTLY IF NOT EXISTS users_phone_idx ON app.users (phone);",
        good="DROP INDEX CONCURRENTLY IF EXISTS app.users_phone_idx;\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS users_phone_idx ON app.users (phone);",
        proof=Warned("42P07"),
    ),
    source=("sql-createindex",),
)
