"""UNIQUE and PRIMARY KEY whose index is built under the lock of ALTER TABLE."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import AddColumn, AddConstraint, Constraint, ConstraintKind
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules import _fixes, _source
from dbsec.migrations.rules._columns import in_steps, rewrite_cause
from dbsec.migrations.rules._words import blocked, target, told

_KEYS = (ConstraintKind.UNIQUE, ConstraintKind.PRIMARY_KEY)


def _match(step: Step) -> Iterator[Hit]:
    operation = step.operation
    found = blocked(step, Work.BUILD)
    if not found:
        return
    if isinstance(operation, AddColumn):
        inline = [one.kind for one in operation.column.constraints if one.kind in _KEYS]
        if inline and rewrite_cause(step) is None:
            where = target(step, operation.table, operation.column.name)
            yield Hit(where, told(step, f"ADD COLUMN … {inline[0].upper()}", found, why=False), in_steps(step))
    elif isinstance(operation, AddConstraint) and _is_built(operation.constraint):
        name, fix = _adopting(step, operation)
        act = f"ADD {operation.constraint.kind.upper()}"
        yield Hit(target(step, operation.table, name), told(step, act, found, why=False), fix)


def _is_built(constraint: Constraint) -> bool:
    return constraint.kind in _KEYS and constraint.using_index is None


def _adopting(step: Step, operation: AddConstraint) -> tuple[str, str]:
    """Return the constraint's name and the statements that make it; no statements where no plain index serves it."""
    constraint = operation.constraint
    primary = constraint.kind is ConstraintKind.PRIMARY_KEY
    name = constraint.name or _fixes.key_name(step.schema, operation.table, constraint.columns, primary=primary)
    key = _fixes.key(_source.constraint(operation.clause), constraint.columns)
    if key is None:
        return name, ""
    return name, _fixes.lines(_fixes.unique(step, operation.table, name, constraint.columns, key))


RULE = Rule(
    code="MIG108",
    name="unique-constraint-without-index",
    title="UNIQUE or PRIMARY KEY builds its index under ACCESS EXCLUSIVE",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(AddConstraint, AddColumn),
    needs=Needs.BLOCKING,
    match=_match,
    effect="A constraint that needs an index builds it while ALTER TABLE holds ACCESS EXCLUSIVE: neither reads nor "
    "writes get through until the whole table is read and sorted.",
    instead="CREATE UNIQUE INDEX CONCURRENTLY first, then ADD CONSTRAINT … USING INDEX, which only changes the "
    "catalog. Columns of a primary key must be NOT NULL before, or the adoption scans the table. On a partitioned "
    "table: the constraint on ONLY the parent, then on each partition in this way, then ALTER INDEX … ATTACH "
    "PARTITION.",
    example=Example(
        setup="CREATE TABLE users (id bigint PRIMARY KEY, email text);\n"
        "INSERT INTO users SELECT n, n FROM generate_series(1, 1000) AS n;",
        bad="ALTER TABLE users ADD CONSTRAINT users_email_key UNIQUE (email);",
        good="CREATE UNIQUE INDEX CONCURRENTLY users_email_key ON users (email);\n"
        "ALTER TABLE users ADD CONSTRAINT users_email_key UNIQUE USING INDEX users_email_key;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "users", Work.BUILD),
    ),
    source=("sql-altertable", "sql-createindex"),
    aliases=("disallowed-unique-constraint", "adding-serial-primary-key-field", "add_unique_constraint", "E7"),
    mechanical=True,
)
