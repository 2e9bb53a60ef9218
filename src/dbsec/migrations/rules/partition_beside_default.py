"""CREATE TABLE … PARTITION OF beside a DEFAULT partition that holds rows."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import CreateTable
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules import _bounds, _fixes, _source
from dbsec.migrations.rules._words import blocked, ident, sql, target, told


def _match(step: Step) -> Iterator[Hit]:
    operation, found = step.operation, blocked(step)
    assert isinstance(operation, CreateTable)
    if operation.partition_of is None or not found:
        return
    parent, default = step.schema.table(operation.partition_of), found[0][0].table
    proofs = _bounds.checks(parent, operation.clause) if parent is not None else None
    fix = ""
    if proofs is not None and len({task.table for task, _ in found}) == 1:
        name = _fixes.named(step.schema, default, (), "bound_check")
        made = _fixes.not_valid(default, name, f"CHECK ({proofs.outside})")
        statement = f"{_source.bare(operation.clause)};"
        fix = _fixes.lines([*made, statement, _fixes.alter(default, f"DROP CONSTRAINT {ident(name)}")])
    act = f"CREATE TABLE {sql(operation.table)} PARTITION OF {sql(operation.partition_of)}"
    yield Hit(target(step, operation.table), told(step, act, found), fix, table=default)


RULE = Rule(
    code="MIG210",
    name="partition-beside-default",
    title="A new partition reads the whole DEFAULT partition under ACCESS EXCLUSIVE",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(CreateTable,),
    needs=Needs.BLOCKING,
    match=_match,
    effect="A row that belongs into the new partition may stand in the DEFAULT one. PostgreSQL reads it to find out, "
    "with ACCESS EXCLUSIVE on the parent and on the DEFAULT partition, and says nothing of it even at DEBUG1.",
    instead="Give the DEFAULT partition a CHECK that excludes the new bound, NOT VALID first, then VALIDATE; it "
    "proves what the scan would look for. Drop it afterwards. Or keep the DEFAULT partition empty.",
    example=Example(
        setup="CREATE TABLE orders (id bigint, month int) PARTITION BY RANGE (month);\n"
        "CREATE TABLE orders_rest PARTITION OF orders DEFAULT;\n"
        "INSERT INTO orders SELECT n, 1 FROM generate_series(1, 1000) AS n;",
        bad="CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (2) TO (3);",
        good="ALTER TABLE orders_rest ADD CONSTRAINT orders_rest_bound_check"
        " CHECK (month IS NULL OR month < 2 OR month >= 3) NOT VALID;\n"
        "ALTER TABLE orders_rest VALIDATE CONSTRAINT orders_rest_bound_check;\n"
        "CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (2) TO (3);\n"
        "ALTER TABLE orders_rest DROP CONSTRAINT orders_rest_bound_check;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "orders_rest", Work.SCAN),
    ),
    source=("sql-createtable", "ddl-partitioning"),
    mechanical=True,
)
