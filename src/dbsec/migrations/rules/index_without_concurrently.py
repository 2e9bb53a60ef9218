"""CREATE INDEX without CONCURRENTLY."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import CreateIndex
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules import _source
from dbsec.migrations.rules._words import blocked, ident, target, told


def _match(step: Step) -> Iterator[Hit]:
    operation, table = step.operation, step.table()
    assert isinstance(operation, CreateIndex)
    found = blocked(step)
    if operation.concurrently or not found or (table is not None and table.partition_by is not None):
        return
    act = f"CREATE INDEX {ident(operation.name)}" if operation.name else "CREATE INDEX"
    fix = _source.after(_source.bare(operation.clause), "INDEX", "CONCURRENTLY") + ";"
    yield Hit(target(step, operation.table), told(step, act, found, why=False), fix)


RULE = Rule(
    code="MIG101",
    name="index-without-concurrently",
    title="CREATE INDEX keeps writers out while it reads the whole table",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_WRITES,
    applies=(CreateIndex,),
    needs=Needs.BLOCKING,
    match=_match,
    effect="CREATE INDEX holds SHARE on the table from its first row to its last: reads go on, every INSERT, UPDATE "
    "and DELETE waits. With large tables that is minutes.",
    instead="CREATE INDEX CONCURRENTLY reads the table twice and holds SHARE UPDATE EXCLUSIVE only. It runs outside a "
    "transaction and without lock_timeout (bound it with statement_timeout); what it leaves behind after an error is "
    "an INVALID index, to be dropped with DROP INDEX CONCURRENTLY before the next try.",
    example=Example(
        setup="CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint);\n"
        "INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) AS n;",
        bad="CREATE INDEX orders_customer_idx ON orders (customer);",
        good="CREATE INDEX CONCURRENTLY orders_customer_idx ON orders (customer);",
        proof=Locks(LockMode.SHARE, "orders", Work.BUILD),
    ),
    source=("sql-createindex", "explicit-locking"),
    aliases=("require-concurrent-index-creation", "add_index", "E6"),
    mechanical=True,
)
