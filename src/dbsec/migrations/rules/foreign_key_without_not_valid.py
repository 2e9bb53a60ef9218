"""FOREIGN KEY that looks up every row while both tables take no writes."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import AddColumn, AddConstraint, ConstraintKind
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules import _fixes, _source
from dbsec.migrations.rules._columns import in_steps, rewrite_cause
from dbsec.migrations.rules._words import blocked, full, hazard, ident, target, told
from dbsec.migrations.schema.model import Table

_PARTITIONED_SINCE = 18


def _match(step: Step) -> Iterator[Hit]:
    operation, found = step.operation, blocked(step, Work.FK_SCAN)
    if isinstance(operation, AddConstraint) and operation.constraint.kind is ConstraintKind.FOREIGN_KEY and found:
        constraint = operation.constraint
        name = constraint.name or _fixes.named(step.schema, operation.table, constraint.columns, "fkey")
        message = told(step, f"ADD CONSTRAINT {ident(name)} FOREIGN KEY", found, why=False)
        if constraint.references is not None:
            message += f"; '{full(step.schema, constraint.references)}' takes no writes meanwhile either"
        fix = _fixes.lines(_in_steps(step, operation, name))
        yield Hit(target(step, operation.table, name), message, fix, hazard=hazard(found[0][1]))
    elif isinstance(operation, AddColumn) and found and rewrite_cause(step) is None:
        act = f"ADD COLUMN {ident(operation.column.name)} … REFERENCES"
        where = target(step, operation.table, operation.column.name)
        yield Hit(where, told(step, act, found, why=False), in_steps(step), hazard=hazard(found[0][1]))


def _in_steps(step: Step, operation: AddConstraint, name: str) -> Iterator[str]:
    table, definition = step.table(), _source.constraint(operation.clause)
    if not definition:
        return
    if table is None or table.partition_by is None or step.major >= _PARTITIONED_SINCE:
        yield from _fixes.not_valid(operation.table, name, definition)
        return
    for part in _leaves(step, table):
        yield from _fixes.not_valid(part.name, name, definition)
    yield _fixes.alter(operation.table, f"ADD CONSTRAINT {ident(name)} {definition}")


def _leaves(step: Step, table: Table) -> Iterator[Table]:
    """Before 18 a partitioned table takes no NOT VALID; it adopts the key that its partitions have already."""
    for part in step.schema.partitions(full(step.schema, table.name)):
        if part.partition_by is None:
            yield part
        else:
            yield from _leaves(step, part)


RULE = Rule(
    code="MIG208",
    name="foreign-key-without-not-valid",
    title="ADD FOREIGN KEY looks up every row while both tables take no writes",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_WRITES,
    applies=(AddConstraint, AddColumn),
    needs=Needs.BLOCKING,
    match=_match,
    effect="ADD FOREIGN KEY holds SHARE ROW EXCLUSIVE on the referencing and on the referenced table while it looks "
    "up every row: nobody writes to either. REFERENCES beside a default in ADD COLUMN does it under ACCESS EXCLUSIVE.",
    instead="Add it NOT VALID, which is over at once, then VALIDATE CONSTRAINT in another transaction: SHARE UPDATE "
    "EXCLUSIVE and ROW SHARE only. Before 18 a partitioned table takes no NOT VALID: do it on each partition, then "
    "add the key to the parent, which adopts them without a look at the rows.",
    example=Example(
        setup="CREATE TABLE users (id bigint PRIMARY KEY);\n"
        "CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint);\n"
        "CREATE INDEX orders_user_idx ON orders (user_id);\nINSERT INTO users SELECT generate_series(1, 1000);\n"
        "INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) AS n;",
        bad="ALTER TABLE orders ADD CONSTRAINT orders_user_fkey FOREIGN KEY (user_id) REFERENCES users (id);",
        good="ALTER TABLE orders ADD CONSTRAINT orders_user_fkey FOREIGN KEY (user_id) REFERENCES users (id)"
        " NOT VALID;\n"
        "ALTER TABLE orders VALIDATE CONSTRAINT orders_user_fkey;",
        proof=Locks(LockMode.SHARE_ROW_EXCLUSIVE, "orders", Work.FK_SCAN),
    ),
    source=("sql-altertable", "ddl-constraints"),
    aliases=("adding-foreign-key-constraint", "constraint-missing-not-valid", "add_foreign_key", "add_reference", "E1"),
    mechanical=True,
)
