"""VACUUM FULL and CLUSTER."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.names import Name
from dbsec.migrations.operations import Cluster, Vacuum
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Rule, Step
from dbsec.migrations.rules._words import is_empty, sql, target, unsure


def _match(step: Step) -> Iterator[Hit]:
    operation = step.operation
    if isinstance(operation, Cluster):
        yield from _hits(step, "CLUSTER", (operation.table,) if operation.table is not None else ())
    elif isinstance(operation, Vacuum) and operation.full:
        yield from _hits(step, "VACUUM FULL", operation.tables)


def _hits(step: Step, act: str, tables: tuple[Name, ...]) -> Iterator[Hit]:
    if not tables:
        yield Hit("database", f"{act} writes every table anew under ACCESS EXCLUSIVE, one after the other", "VACUUM;")
    for table in tables:
        if not is_empty(step.schema, table):
            yield Hit(
                target(step, table),
                f"{act} writes every row and index of {sql(table)} anew under ACCESS EXCLUSIVE: reads and writes wait "
                f"until it is done{unsure(step)}",
                f"VACUUM (ANALYZE) {sql(table)};\nREINDEX TABLE CONCURRENTLY {sql(table)};",
            )


RULE = Rule(
    code="MIG105",
    name="vacuum-full-or-cluster",
    title="VACUUM FULL and CLUSTER write the table anew while nobody may read it",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(Vacuum, Cluster),
    match=_match,
    effect="VACUUM FULL and CLUSTER copy the table into a new file under ACCESS EXCLUSIVE, and need its size as free "
    "disk besides.",
    instead="Plain VACUUM makes the space usable again and REINDEX TABLE CONCURRENTLY shrinks the indexes; both let "
    "others work. Where the file itself must shrink or be sorted, use pg_repack, which copies beside the running "
    "table.",
    example=Example(
        setup="CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint);\n"
        "INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) AS n;",
        bad="VACUUM FULL orders;",
        good="VACUUM (ANALYZE) orders;\nREINDEX TABLE CONCURRENTLY orders;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "orders", Work.REWRITE),
    ),
    source=("sql-vacuum", "sql-cluster"),
    aliases=("prefer-repack",),
)
