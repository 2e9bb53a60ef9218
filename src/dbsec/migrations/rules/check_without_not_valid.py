"""CHECK that is tested on every row under ACCESS EXCLUSIVE."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import AddColumn, AddConstraint, ConstraintKind
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules import _fixes, _source
from dbsec.migrations.rules._columns import in_steps, rewrite_cause
from dbsec.migrations.rules._words import blocked, ident, target, told
from dbsec.migrations.tree import columns_in


def _match(step: Step) -> Iterator[Hit]:
    operation, found = step.operation, blocked(step, Work.SCAN)
    if isinstance(operation, AddConstraint) and operation.constraint.kind is ConstraintKind.CHECK and found:
        name = operation.constraint.name or _chosen(step, operation)
        definition = _source.constraint(operation.clause)
        fix = _fixes.lines(_fixes.not_valid(operation.table, name, definition)) if definition else ""
        yield Hit(
            target(step, operation.table, name),
            told(step, f"ADD CONSTRAINT {ident(name)} CHECK", found, why=False),
            fix,
        )
    elif isinstance(operation, AddColumn) and found and _has_check(operation) and rewrite_cause(step) is None:
        act = f"ADD COLUMN {ident(operation.column.name)} … CHECK"
        yield Hit(target(step, operation.table, operation.column.name), told(step, act, found), in_steps(step))


def _chosen(step: Step, operation: AddConstraint) -> str:
    """PostgreSQL puts the column into the name where the CHECK reads just one."""
    read = columns_in(operation.constraint.expression)
    return _fixes.named(step.schema, operation.table, read if len(read) == 1 else (), "check")


def _has_check(operation: AddColumn) -> bool:
    return any(one.kind is ConstraintKind.CHECK and one.enforced for one in operation.column.constraints)


RULE = Rule(
    code="MIG207",
    name="check-without-not-valid",
    title="ADD CHECK reads the whole table under ACCESS EXCLUSIVE",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(AddConstraint, AddColumn),
    needs=Needs.BLOCKING,
    match=_match,
    effect="A CHECK is tested on every row while ALTER TABLE holds ACCESS EXCLUSIVE; also one that stands at a new "
    "column, where every value is NULL.",
    instead="Add it NOT VALID, which tests new rows only and is over at once; then, in another transaction, VALIDATE "
    "CONSTRAINT, which reads the rows under SHARE UPDATE EXCLUSIVE.",
    example=Example(
        setup="CREATE TABLE orders (id bigint PRIMARY KEY, total int);\n"
        "INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) AS n;",
        bad="ALTER TABLE orders ADD CONSTRAINT orders_total_check CHECK (total > 0);",
        good="ALTER TABLE orders ADD CONSTRAINT orders_total_check CHECK (total > 0) NOT VALID;\n"
        "ALTER TABLE orders VALIDATE CONSTRAINT orders_total_check;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "orders", Work.SCAN),
    ),
    more=(
        Example(
            setup="CREATE TABLE orders (id bigint PRIMARY KEY);\nINSERT INTO orders SELECT generate_series(1, 1000);",
            bad="ALTER TABLE orders ADD COLUMN total int CHECK (total > 0);",
            good="ALTER TABLE orders ADD COLUMN total int;\n"
            "ALTER TABLE orders ADD CONSTRAINT orders_total_check CHECK (total > 0) NOT VALID;\n"
            "ALTER TABLE orders VALIDATE CONSTRAINT orders_total_check;",
            proof=Locks(LockMode.ACCESS_EXCLUSIVE, "orders", Work.SCAN),
        ),
    ),
    source=("sql-altertable",),
    aliases=("constraint-missing-not-valid", "add_check_constraint", "E1"),
    mechanical=True,
)
