"""ATTACH PARTITION that must read the partition, or the DEFAULT one, or build what is missing."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.names import Name
from dbsec.migrations.operations import AttachPartition, ConstraintKind
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules import _bounds, _fixes
from dbsec.migrations.rules._words import Blocked, blocked, columns, full, ident, sql, target, told
from dbsec.migrations.schema.model import Index, Schema, Table


def _match(step: Step) -> Iterator[Hit]:
    operation, found = step.operation, blocked(step)
    assert isinstance(operation, AttachPartition)
    if found:
        act = f"ATTACH PARTITION {sql(operation.partition)}"
        yield Hit(target(step, operation.partition), told(step, act, found), _prepared(step, operation, found))


def _prepared(step: Step, operation: AttachPartition, found: list[Blocked]) -> str:
    parent, child = step.table(), step.schema.table(operation.partition)
    proofs = _bounds.checks(parent, operation.clause) if parent is not None else None
    works = {task.work for task, _ in found}
    if proofs is None or works - {Work.SCAN, Work.BUILD} or parent is None:
        return ""
    itself = full(step.schema, operation.partition)
    scanned = list(dict.fromkeys(task.table for task, _ in found if task.work is Work.SCAN))
    names = {table: _fixes.named(step.schema, table, (), "bound_check") for table in scanned}
    missing = _missing(parent, child)
    if any(index.predicate is not None or "" in index.columns for index in missing):
        return ""
    made = [line for index in missing for line in _built(step.schema, operation.partition, index)]
    for table in scanned:
        check = proofs.inside if table == itself else proofs.outside
        made += _fixes.not_valid(table, names[table], f"CHECK ({check})")
    made.append(_fixes.alter(operation.table, operation.clause))
    return _fixes.lines(made + [_fixes.alter(table, f"DROP CONSTRAINT {ident(names[table])}") for table in scanned])


def _missing(parent: Table, child: Table | None) -> list[Index]:
    have = list(child.indexes.values()) if child is not None else []
    return [index for index in parent.indexes.values() if not any(_alike(index, other) for other in have)]


def _alike(one: Index, other: Index) -> bool:
    return all(getattr(one, part) == getattr(other, part) for part in ("columns", "unique", "method", "include"))


def _built(schema: Schema, table: Name, index: Index) -> Iterator[str]:
    """An index of the parent that belongs to a constraint asks for the constraint on the partition too."""
    of = schema.table(index.table)
    primary = of is not None and any(one.name == index.constraint for one in of.of_kind(ConstraintKind.PRIMARY_KEY))
    label = "pkey" if primary else "key" if index.constraint else "idx"
    name = ident(_fixes.named(schema, table, () if primary else index.columns, label))
    include = f" INCLUDE ({columns(index.include)})" if index.include else ""
    key = f"USING {index.method} ({columns(index.columns)}){include}"
    yield f"CREATE {'UNIQUE ' if index.unique else ''}INDEX CONCURRENTLY {name} ON {sql(table)} {key}"
    if index.constraint:
        yield _fixes.alter(table, f"ADD CONSTRAINT {name} {'PRIMARY KEY' if primary else 'UNIQUE'} USING INDEX {name}")


RULE = Rule(
    code="MIG209",
    name="attach-partition-without-check",
    title="ATTACH PARTITION reads the rows under ACCESS EXCLUSIVE, unless a CHECK proves the bound",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(AttachPartition,),
    needs=Needs.BLOCKING,
    match=_match,
    effect="PostgreSQL must know that every row of the new partition fits its bound, and that no row of the DEFAULT "
    "partition belongs there: it reads both under ACCESS EXCLUSIVE, which for the DEFAULT one shuts a part of the "
    "table that is in use. Indexes and foreign keys of the parent that the partition lacks are made in the same go.",
    instead="Give the partition a validated CHECK that says its bound (IS NOT NULL included), and the DEFAULT "
    "partition one that says the opposite, both NOT VALID first, then VALIDATE; build the missing indexes "
    "concurrently; then ATTACH, which only changes the catalog; then drop the CHECKs.",
    example=Example(
        setup="CREATE TABLE orders (id bigint, month int NOT NULL) PARTITION BY RANGE (month);\n"
        "CREATE TABLE orders_2 (id bigint, month int NOT NULL);\n"
        "INSERT INTO orders_2 SELECT n, 2 FROM generate_series(1, 1000) AS n;",
        bad="ALTER TABLE orders ATTACH PARTITION orders_2 FOR VALUES FROM (2) TO (3);",
        good="ALTER TABLE orders_2 ADD CONSTRAINT orders_2_bound_check"
        " CHECK (month IS NOT NULL AND month >= 2 AND month < 3) NOT VALID;\n"
        "ALTER TABLE orders_2 VALIDATE CONSTRAINT orders_2_bound_check;\n"
        "ALTER TABLE orders ATTACH PARTITION orders_2 FOR VALUES FROM (2) TO (3);\n"
        "ALTER TABLE orders_2 DROP CONSTRAINT orders_2_bound_check;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "orders_2", Work.SCAN),
    ),
    source=("sql-altertable", "ddl-partitioning"),
)
