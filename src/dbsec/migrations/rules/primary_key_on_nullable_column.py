"""PRIMARY KEY USING INDEX over a column that may be NULL."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import AddConstraint, ConstraintKind
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules import _fixes
from dbsec.migrations.rules._words import blocked, ident, target, told


def _match(step: Step) -> Iterator[Hit]:
    operation, found = step.operation, blocked(step)
    assert isinstance(operation, AddConstraint)
    constraint = operation.constraint
    if constraint.kind is not ConstraintKind.PRIMARY_KEY or constraint.using_index is None or not found:
        return
    table = step.table()
    index = table.indexes.get(constraint.using_index) if table is not None else None
    of = [column for column in (index.columns if index else ()) if _fixes.may_be_null(table, column)]
    made = [line for column in of for line in _fixes.not_null(step, operation.table, column)]
    yield Hit(
        target(step, operation.table, *of),
        told(step, f"PRIMARY KEY USING INDEX {ident(constraint.using_index)}", found),
        _fixes.lines([*made, _fixes.alter(operation.table, operation.clause)]) if made else "",
    )


RULE = Rule(
    code="MIG211",
    name="primary-key-on-nullable-column",
    title="PRIMARY KEY USING INDEX reads the whole table where a column may be NULL",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(AddConstraint,),
    needs=Needs.BLOCKING,
    match=_match,
    effect="A primary key makes its columns NOT NULL. Where they are not yet, the adoption of a ready index, which "
    "else changes the catalog only, reads every row under ACCESS EXCLUSIVE.",
    instead="Make the columns NOT NULL before, with the proof that the major allows (18: NOT NULL … NOT VALID and "
    "VALIDATE; before: a validated CHECK), and adopt the index then.",
    example=Example(
        setup="CREATE TABLE users (id bigint, email text);\n"
        "INSERT INTO users SELECT n, n FROM generate_series(1, 1000) AS n;\n"
        "CREATE UNIQUE INDEX users_pkey ON users (id);",
        bad="ALTER TABLE users ADD CONSTRAINT users_pkey PRIMARY KEY USING INDEX users_pkey;",
        good="ALTER TABLE users ADD CONSTRAINT users_id_not_null CHECK (id IS NOT NULL) NOT VALID;\n"
        "ALTER TABLE users VALIDATE CONSTRAINT users_id_not_null;\n"
        "ALTER TABLE users ALTER COLUMN id SET NOT NULL;\n"
        "ALTER TABLE users ADD CONSTRAINT users_pkey PRIMARY KEY USING INDEX users_pkey;\n"
        "ALTER TABLE users DROP CONSTRAINT users_id_not_null;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "users", Work.SCAN),
    ),
    source=("sql-altertable",),
    aliases=("adding-not-nullable-field", "W14"),
    mechanical=True,
)
