"""MIG506: every row is updated in one transaction."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import Write
from dbsec.migrations.rule import Example, Hazard, Hit, Loses, Rule, Step
from dbsec.migrations.rules._batches import in_batches
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import knows
from dbsec.migrations.rules._words import target
from dbsec.migrations.rules.backfill_in_ddl_transaction import is_backfill_under_lock


def _match(step: Step) -> Iterator[Hit]:
    update = step.operation
    assert isinstance(update, Write)
    if update.kind != "update" or update.where is not None or not knows(step, update.table):
        return
    if is_backfill_under_lock(step, update):
        return
    yield Hit(
        target(step, update.table),
        f"every row of '{update.table}' is written anew, and stays locked for other writers until the last one is done",
        in_batches(step, update),
        table=update.table,
    )


RULE = Rule(
    code="MIG506",
    name="update-without-where",
    title="UPDATE without WHERE",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_WRITES,
    applies=(Write,),
    match=_match,
    effect="UPDATE writes a new version of each row and keeps its lock to the end of the transaction: another UPDATE "
    "or DELETE of any row that is done waits for the last one. The table and its indexes grow to twice their size, "
    "standbys lag behind the WAL, and VACUUM cannot clean anywhere meanwhile.",
    instead="Update in batches along the key, some thousand rows and a transaction each, and let the standbys catch up "
    "between them. A constant for a new column is free as ADD COLUMN … DEFAULT.",
    example=Example(
        setup=USERS,
        bad="UPDATE app.users SET status = 'old';",
        good="UPDATE app.users SET status = status WHERE id BETWEEN 1 AND 500;",
        proof=Loses("SELECT DISTINCT status FROM app.users"),
    ),
    source=("sql-update", "routine-vacuuming"),
    aliases=("update-without-where",),
)
