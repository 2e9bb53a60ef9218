"""CREATE INDEX on a partitioned table, with all its partitions."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.names import Name
from dbsec.migrations.operations import CreateIndex
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Rule, Step
from dbsec.migrations.rules import _fixes, _source
from dbsec.migrations.rules._words import blocked, full, ident, sql, target, told
from dbsec.migrations.schema.model import Schema


def _match(step: Step) -> Iterator[Hit]:
    operation, table = step.operation, step.table()
    assert isinstance(operation, CreateIndex)
    if table is None or table.partition_by is None or operation.only:
        return
    act = f"CREATE INDEX {ident(operation.name)}" if operation.name else "CREATE INDEX"
    found = blocked(step)
    if operation.concurrently and "partitioned" in step.effect.fails:
        message = f"{act} CONCURRENTLY is refused (0A000): '{table.name}' is partitioned"
        yield Hit(target(step, operation.table), message, _by_partition(step, operation), hazard=Hazard.FAILS)
    elif found:
        yield Hit(target(step, operation.table), told(step, act, found, why=False), _by_partition(step, operation))


def _by_partition(step: Step, operation: CreateIndex) -> str:
    keys = "_".join(column or "expr" for column in operation.columns)
    name = operation.name or _fixes.named(step.schema, operation.table, (keys,), "idx")
    behind = _behind_table(_source.bare(operation.clause))
    unique = "UNIQUE " if operation.unique else ""
    parent = full(step.schema, operation.table)
    return _fixes.lines(_statements(step.schema, parent, name, unique, behind)) if behind else ""


def _behind_table(text: str) -> str:
    """Return what follows the table: method, key, INCLUDE, WITH, WHERE."""
    found = _source.words(text)
    on = next((i for i, word in enumerate(found) if word.name == "ON" and word.depth == 0), len(found))
    ends = (word.start for word in found[on:] if word.depth == 0 and word.name in ("USING", "ASCII_40"))
    return text[next(ends, len(text)) :]


def _statements(schema: Schema, parent: Name, name: str, unique: str, behind: str) -> Iterator[str]:
    yield f"CREATE {unique}INDEX {ident(name)} ON ONLY {sql(parent)} {behind}"
    for part in schema.partitions(parent):
        inner = _fixes.named(schema, part.name, (), name.removeprefix(f"{parent.name}_"))
        if part.partition_by is not None:
            yield from _statements(schema, part.name, inner, unique, behind)
        else:
            yield f"CREATE {unique}INDEX CONCURRENTLY {ident(inner)} ON {sql(part.name)} {behind}"
        yield f"ALTER INDEX {_fixes.beside(parent, name)} ATTACH PARTITION {_fixes.beside(part.name, inner)}"


RULE = Rule(
    code="MIG115",
    name="index-on-partitioned-parent",
    title="CREATE INDEX on a partitioned table locks all partitions, and CONCURRENTLY is refused there",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_WRITES,
    applies=(CreateIndex,),
    match=_match,
    effect="CREATE INDEX on a partitioned table builds it on one partition after the other in one transaction: SHARE "
    "on all of them to the end. CONCURRENTLY works on partitions only.",
    instead="CREATE INDEX … ON ONLY the parent (an INVALID frame, made at once), CREATE INDEX CONCURRENTLY on each "
    "partition, ALTER INDEX … ATTACH PARTITION for each; with the last one the parent's index becomes valid.",
    example=Example(
        setup="CREATE TABLE orders (id bigint, month int) PARTITION BY RANGE (month);\n"
        "CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (1) TO (2);\n"
        "INSERT INTO orders SELECT n, 1 FROM generate_series(1, 1000) AS n;",
        bad="CREATE INDEX orders_id_idx ON orders (id);",
        good="CREATE INDEX orders_id_idx ON ONLY orders (id);\n"
        "CREATE INDEX CONCURRENTLY orders_1_id_idx ON orders_1 (id);\n"
        "ALTER INDEX orders_id_idx ATTACH PARTITION orders_1_id_idx;",
        proof=Locks(LockMode.SHARE, "orders_1", Work.BUILD),
    ),
    source=("ddl-partitioning", "sql-createindex"),
    aliases=("require-concurrent-index-creation",),
    mechanical=True,
)
