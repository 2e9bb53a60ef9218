"""DETACH PARTITION without CONCURRENTLY."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.operations import DetachPartition
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Rule, Step
from dbsec.migrations.rules._fixes import alter
from dbsec.migrations.rules._words import blocked, full, is_old, sql, target, told, unsure


def _match(step: Step) -> Iterator[Hit]:
    operation = step.operation
    assert isinstance(operation, DetachPartition)
    if operation.concurrently or operation.finalize or not is_old(step.schema, operation.table):
        return
    act = f"DETACH PARTITION {sql(operation.partition)}"
    found = blocked(step)
    waits = (
        f"{act} asks for ACCESS EXCLUSIVE on '{full(step.schema, operation.table)}': while it waits for a running "
        f"query, reads and writes of all its partitions queue behind it{unsure(step)}"
    )
    refused = _has_default(step, operation)
    yield Hit(
        target(step, operation.partition),
        (told(step, act, found) if found else waits)
        + ("; CONCURRENTLY is refused beside a DEFAULT partition" if refused else ""),
        "" if refused else alter(operation.table, f"{act} CONCURRENTLY"),
        Severity.ERROR if found else None,
    )


def _has_default(step: Step, operation: DetachPartition) -> bool:
    parts = step.schema.partitions(full(step.schema, operation.table))
    return any(part.bound is not None and part.bound.strategy == "default" for part in parts)


RULE = Rule(
    code="MIG106",
    name="detach-partition-without-concurrently",
    title="DETACH PARTITION asks for ACCESS EXCLUSIVE on the whole partitioned table",
    severity=Severity.WARNING,
    hazard=Hazard.BLOCKS_ALL,
    applies=(DetachPartition,),
    match=_match,
    effect="DETACH PARTITION takes ACCESS EXCLUSIVE on parent and partition: every query on any partition through the "
    "parent queues behind it.",
    instead="DETACH PARTITION … CONCURRENTLY takes SHARE UPDATE EXCLUSIVE on the parent. It runs outside a "
    "transaction, is refused beside a DEFAULT partition, and is ended with FINALIZE where it was interrupted.",
    example=Example(
        setup="CREATE TABLE orders (id bigint, month int) PARTITION BY RANGE (month);\n"
        "CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (1) TO (2);",
        bad="ALTER TABLE orders DETACH PARTITION orders_1;",
        good="ALTER TABLE orders DETACH PARTITION orders_1 CONCURRENTLY;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "orders"),
    ),
    source=("sql-altertable",),
    aliases=("require-concurrent-partition-detach",),
    mechanical=True,
)
