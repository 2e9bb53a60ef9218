"""MIG406: every row is deleted."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import Write
from dbsec.migrations.rule import Example, Hazard, Hit, Loses, Rule, Step
from dbsec.migrations.rules._examples import ORDERS
from dbsec.migrations.rules._expand import BATCH, key_of
from dbsec.migrations.rules._release import knows
from dbsec.migrations.rules._words import ident, sql, target


def _match(step: Step) -> Iterator[Hit]:
    delete = step.operation
    assert isinstance(delete, Write)
    if delete.kind != "delete" or delete.where is not None or not knows(step, delete.table):
        return
    picked = ident(key_of(step, delete.table) or "ctid")
    table = sql(delete.table)
    yield Hit(
        target(step, delete.table),
        f"every row of '{delete.table}' is deleted, and each stays locked for other writers until the transaction ends",
        "-- if all of them shall go: in batches, a transaction each, until no row is left:\n"
        f"-- DELETE FROM {table} WHERE {picked} IN (SELECT {picked} FROM {table} LIMIT {BATCH});",
    )


RULE = Rule(
    code="MIG406",
    name="delete-without-where",
    title="DELETE without WHERE",
    severity=Severity.ERROR,
    hazard=Hazard.LOSES_DATA,
    applies=(Write,),
    match=_match,
    effect="DELETE without WHERE takes every row in one transaction, with those that ON DELETE CASCADE reaches in "
    "other tables. Each row is locked until the end, WAL is written for each, and VACUUM has the whole table to clean.",
    instead="Say which rows, even if they are all: WHERE with a key range, in batches of a transaction each.",
    example=Example(
        setup=ORDERS,
        bad="DELETE FROM app.orders;",
        good="DELETE FROM app.orders WHERE id = -1;",
        proof=Loses("SELECT count(*) FROM app.orders"),
    ),
    source=("sql-delete",),
    aliases=("delete-without-where",),
)
