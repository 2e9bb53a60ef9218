"""ADD COLUMN of a domain that has constraints."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import AddColumn
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules._columns import Cause, in_steps, rewrite_cause
from dbsec.migrations.rules._words import blocked, ident, target, told


def _match(step: Step) -> Iterator[Hit]:
    operation = step.operation
    assert isinstance(operation, AddColumn)
    if rewrite_cause(step) is not Cause.DOMAIN:
        return
    act = f"ADD COLUMN {ident(operation.column.name)} {operation.column.type}"
    known = step.schema.domain(operation.column.type) is not None
    where = target(step, operation.table, operation.column.name)
    yield Hit(where, told(step, act, blocked(step)), in_steps(step) if known else "")


RULE = Rule(
    code="MIG205",
    name="column-of-constrained-domain",
    title="A column of a domain with CHECK or NOT NULL writes the whole table anew",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(AddColumn,),
    needs=Needs.BLOCKING,
    match=_match,
    effect="PostgreSQL tests the constraints of a domain on the value of each row, also on NULL, and to do so writes "
    "the table and its indexes anew under ACCESS EXCLUSIVE. A domain without constraints costs nothing.",
    instead="Take the domain's base type, and let a CHECK of the table (NOT VALID, then VALIDATE) hold what the "
    "domain would hold.",
    example=Example(
        setup="CREATE TABLE users (id bigint PRIMARY KEY);\nINSERT INTO users SELECT generate_series(1, 1000);\n"
        "CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');",
        bad="ALTER TABLE users ADD COLUMN mail email;",
        good="ALTER TABLE users ADD COLUMN mail text;\n"
        "ALTER TABLE users ADD CONSTRAINT users_mail_check CHECK (mail LIKE '%@%') NOT VALID;\n"
        "ALTER TABLE users VALIDATE CONSTRAINT users_mail_check;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "users", Work.REWRITE),
    ),
    source=("sql-altertable", "domains"),
    aliases=("ban-create-domain-with-constraint",),
)
