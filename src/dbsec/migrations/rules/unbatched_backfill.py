"""MIG507: one statement writes as many rows as there happen to be."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import Write
from dbsec.migrations.rule import Example, Hazard, Hit, Rule, Shows, Step
from dbsec.migrations.rules._batches import in_batches
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import few_rows, knows
from dbsec.migrations.rules._words import is_empty, target
from dbsec.migrations.rules.backfill_in_ddl_transaction import is_backfill_under_lock


def _match(step: Step) -> Iterator[Hit]:
    write = step.operation
    assert isinstance(write, Write)
    if not knows(step, write.table) or few_rows(step, write) or is_backfill_under_lock(step, write):
        return
    if write.kind in ("update", "delete") and write.where is None:
        return
    if write.kind == "copy" or (write.kind == "insert" and all(is_empty(step.schema, name) for name in write.reads)):
        return
    yield Hit(
        target(step, write.table),
        f"one {write.kind.upper()} writes all rows of '{write.table}' that match, and keeps them locked until the last "
        "one is done",
        in_batches(step, write),
        table=write.table,
    )


RULE = Rule(
    code="MIG507",
    name="unbatched-backfill",
    title="A backfill in one statement",
    severity=Severity.WARNING,
    hazard=Hazard.BLOCKS_WRITES,
    applies=(Write,),
    match=_match,
    effect="However many rows match are written in one transaction: each stays locked for other writers to the end, "
    "dead rows are kept until then, standbys lag, and what fails on the last row is undone for all of them.",
    instead="Some thousand rows and a transaction each: by ranges of the key, or WHERE id IN (SELECT … LIMIT 10000 FOR "
    "UPDATE SKIP LOCKED) until no row is left.",
    example=Example(
        setup=USERS,
        bad="UPDATE app.users SET status = 'old' WHERE status = 'new';",
        good="UPDATE app.users SET status = 'old' WHERE id IN "
        "(SELECT id FROM app.users WHERE status = 'new' LIMIT 10 FOR UPDATE SKIP LOCKED);",
        proof=Shows("SELECT (count(*) > 100)::text FROM app.users WHERE status = 'old'", "true"),
    ),
    source=("sql-update", "populate"),
)
