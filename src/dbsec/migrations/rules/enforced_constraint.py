"""ALTER CONSTRAINT … ENFORCED (18)."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import AlterConstraint
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules import _fixes
from dbsec.migrations.rules._words import blocked, hazard, ident, target, told


def _match(step: Step) -> Iterator[Hit]:
    operation, found = step.operation, blocked(step)
    assert isinstance(operation, AlterConstraint)
    if found:
        message = told(step, f"ALTER CONSTRAINT {ident(operation.name)} ENFORCED", found, why=False)
        where, fix = target(step, operation.table, operation.name), _once_more(step, operation)
        yield Hit(where, message, fix, hazard=hazard(found[0][1]))


def _once_more(step: Step, operation: AlterConstraint) -> str:
    """The server itself tells what the constraint says: its ON DELETE and all."""
    table, old = operation.table, operation.name
    new = _fixes.named(step.schema, table, (), old.removeprefix(f"{table.name}_"))
    return _fixes.lines(
        [
            _fixes.again_not_valid(table, old, f"ADD CONSTRAINT {ident(new)}", without=" NOT ENFORCED"),
            _fixes.alter(table, f"VALIDATE CONSTRAINT {ident(new)}"),
            _fixes.alter(table, f"DROP CONSTRAINT {ident(old)}"),
            _fixes.alter(table, f"RENAME CONSTRAINT {ident(new)} TO {ident(old)}"),
        ]
    )


RULE = Rule(
    code="MIG215",
    name="enforced-constraint",
    title="To enforce a constraint reads every row under a lock, and no NOT VALID goes before",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(AlterConstraint,),
    needs=Needs.BLOCKING,
    match=_match,
    effect="ALTER CONSTRAINT … ENFORCED (18) tests a NOT ENFORCED constraint on every row in the same statement, "
    "while the table is locked.",
    instead="Add the constraint a second time under another name, NOT VALID, VALIDATE it, and drop the one that is "
    "not enforced.",
    example=Example(
        setup="CREATE TABLE users (id bigint PRIMARY KEY);\nCREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint,"
        " CONSTRAINT orders_user_fkey FOREIGN KEY (user_id) REFERENCES users (id) NOT ENFORCED);\n"
        "CREATE INDEX orders_user_idx ON orders (user_id);\nINSERT INTO users SELECT generate_series(1, 1000);\n"
        "INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) AS n;",
        bad="ALTER TABLE orders ALTER CONSTRAINT orders_user_fkey ENFORCED;",
        good="ALTER TABLE orders ADD CONSTRAINT orders_user_fkey1 FOREIGN KEY (user_id) REFERENCES users (id)"
        " NOT VALID;\n"
        "ALTER TABLE orders VALIDATE CONSTRAINT orders_user_fkey1;\n"
        "ALTER TABLE orders DROP CONSTRAINT orders_user_fkey;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "orders", Work.FK_SCAN),
    ),
    source=("sql-altertable",),
    since=18,
)
