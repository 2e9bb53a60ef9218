"""SET LOGGED, SET UNLOGGED, SET TABLESPACE, SET ACCESS METHOD."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import SetAccessMethod, SetPersistence, SetTablespace
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Rule, Step
from dbsec.migrations.rules._words import blocked, ident, sql, target, told


def _match(step: Step) -> Iterator[Hit]:
    operation = step.operation
    assert isinstance(operation, (SetAccessMethod, SetPersistence, SetTablespace))
    found = blocked(step)
    if not found:
        return
    fix = ""
    if isinstance(operation, SetPersistence):
        act = "SET LOGGED" if operation.logged else "SET UNLOGGED"
    elif isinstance(operation, SetTablespace):
        act = f"SET TABLESPACE {ident(operation.tablespace)}"
        if operation.relation == "index":
            fix = f"REINDEX (TABLESPACE {ident(operation.tablespace)}) INDEX CONCURRENTLY {sql(operation.table)};"
    else:
        act = "SET ACCESS METHOD"
    yield Hit(target(step, operation.table), told(step, act, found), fix)


RULE = Rule(
    code="MIG212",
    name="table-copied-to-other-storage",
    title="The table is copied to another place or form while nobody may read it",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(SetPersistence, SetTablespace, SetAccessMethod),
    match=_match,
    effect="SET LOGGED and SET UNLOGGED, SET TABLESPACE and SET ACCESS METHOD copy the table (the first two its "
    "indexes as well) under ACCESS EXCLUSIVE. SET LOGGED writes all of it to the WAL; an unlogged table is empty "
    "after a crash.",
    instead="Create a table of the wanted kind, keep it equal by trigger, copy in batches, exchange the names. An "
    "index moves with REINDEX (TABLESPACE …) INDEX CONCURRENTLY; of a partitioned table only new partitions need be "
    "elsewhere.",
    example=Example(
        setup="CREATE TABLE orders (id bigint PRIMARY KEY, total int);\n"
        "INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) AS n;",
        bad="ALTER TABLE orders SET UNLOGGED;",
        good="CREATE UNLOGGED TABLE orders_new (LIKE orders INCLUDING ALL);\n"
        "INSERT INTO orders_new SELECT * FROM orders WHERE id BETWEEN 1 AND 1000;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "orders", Work.REWRITE),
    ),
    source=("sql-altertable", "sql-reindex"),
)
