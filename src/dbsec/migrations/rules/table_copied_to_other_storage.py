"""SET LOGGED, SET UNLOGGED, SET TABLESPACE, SET ACCESS METHOD."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import SetAccessMethod, SetPersistence, SetTablespace
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Rule, Step
from dbsec.migrations.rules._words import blocked, full, ident, is_empty, sql, target, unsure, waits


def _match(step: Step) -> Iterator[Hit]:
    operation = step.operation
    assert isinstance(operation, (SetAccessMethod, SetPersistence, SetTablespace))
    if isinstance(operation, SetTablespace) and operation.relation == "index":
        yield from _of_index(step, operation)
    elif found := blocked(step):
        mode = found[0][1]
        table = full(step.schema, operation.table)
        message = (
            f"{_act(operation)} copies '{table}' under {mode.sql}, and {waits(mode)} until it is done{unsure(step)}"
        )
        yield Hit(target(step, operation.table), message)


def _act(operation: SetAccessMethod | SetPersistence | SetTablespace) -> str:
    if isinstance(operation, SetPersistence):
        return "SET LOGGED" if operation.logged else "SET UNLOGGED"
    return (
        f"SET TABLESPACE {ident(operation.tablespace)}" if isinstance(operation, SetTablespace) else "SET ACCESS METHOD"
    )


def _of_index(step: Step, operation: SetTablespace) -> Iterator[Hit]:
    index = step.schema.index(operation.table)
    if (index is None and step.schema.known) or (index is not None and is_empty(step.schema, index.table)):
        return
    name, space = sql(operation.table), ident(operation.tablespace)
    yield Hit(
        str(step.schema.qualified(operation.table)),
        f"ALTER INDEX {name} SET TABLESPACE copies the index under ACCESS EXCLUSIVE on it: every query that PostgreSQL "
        "plans on its table waits, because planning looks at each index",
        f"REINDEX (TABLESPACE {space}) INDEX CONCURRENTLY {name};",
        table=index.table if index is not None else None,
    )


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
