"""ALTER COLUMN … TYPE that leaves the rows alone, but builds indexes or checks constraints again."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import AlterColumnType, ConstraintKind
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Needs, Rule, Step
from dbsec.migrations.rules import _fixes
from dbsec.migrations.rules._columns import beside_the_old, wanted_type
from dbsec.migrations.rules._words import Blocked, blocked, ident, target, told
from dbsec.migrations.tree import columns_in


def _match(step: Step) -> Iterator[Hit]:
    operation = step.operation
    assert isinstance(operation, AlterColumnType)
    found = blocked(step)
    if found and found[0][0].work is not Work.REWRITE:
        fix = _checks_again(step, operation, found) or beside_the_old(step)
        act = f"ALTER COLUMN {ident(operation.column)} TYPE {wanted_type(operation)}"
        message = f"{told(step, act, found)}; the rows themselves are not written anew"
        yield Hit(target(step, operation.table, operation.column), message, fix)


def _checks_again(step: Step, operation: AlterColumnType, found: list[Blocked]) -> str:
    """Drop the one CHECK on the way and add it NOT VALID, all in one statement; the server tells what it says."""
    table = step.table()
    if table is None or any(task.work is not Work.SCAN for task, _ in found):
        return ""
    checks = [one for one in table.of_kind(ConstraintKind.CHECK) if operation.column in columns_in(one.expression)]
    if len(checks) != 1 or not checks[0].name:
        return ""
    name = ident(checks[0].name)
    acts = f"DROP CONSTRAINT {name}, {operation.clause}, ADD CONSTRAINT {name}"
    statement = _fixes.again_not_valid(operation.table, checks[0].name, acts)
    return _fixes.lines([statement, _fixes.alter(operation.table, f"VALIDATE CONSTRAINT {name}")])


RULE = Rule(
    code="MIG213",
    name="type-change-rebuilds-index",
    title="A change of type that is free for the rows is not free for their indexes and constraints",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(AlterColumnType,),
    needs=Needs.BLOCKING,
    match=_match,
    effect="A longer varchar, another collation or timestamp to timestamptz under UTC keeps the rows as they are. But "
    "a CHECK on the column is tested on every row again, and indexes whose order, expression or WHERE may change are "
    "built again, all under ACCESS EXCLUSIVE.",
    instead="For a CHECK: drop it, change the type, add it NOT VALID in one ALTER TABLE, then VALIDATE. For an index: "
    "a new column of the new type with its own index, built concurrently, as for a change that rewrites; or, where "
    "queries can do without the index for a while, drop it and create it concurrently afterwards.",
    example=Example(
        setup="CREATE TABLE users (id bigint PRIMARY KEY, code varchar(10), CHECK (code <> ''));\n"
        "INSERT INTO users SELECT n, n FROM generate_series(1, 1000) AS n;",
        bad="ALTER TABLE users ALTER COLUMN code TYPE varchar(20);",
        good="ALTER TABLE users DROP CONSTRAINT users_code_check, ALTER COLUMN code TYPE varchar(20),"
        " ADD CONSTRAINT users_code_check CHECK (code <> '') NOT VALID;\n"
        "ALTER TABLE users VALIDATE CONSTRAINT users_code_check;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "users", Work.SCAN),
    ),
    more=(
        Example(
            setup="CREATE TABLE users (id bigint PRIMARY KEY, code varchar(10));\n"
            "CREATE INDEX users_code_idx ON users (lower(code));\n"
            "INSERT INTO users SELECT n, n FROM generate_series(1, 1000) AS n;",
            bad="ALTER TABLE users ALTER COLUMN code TYPE varchar(20);",
            good="DROP INDEX CONCURRENTLY users_code_idx;\n"
            "ALTER TABLE users ALTER COLUMN code TYPE varchar(20);\n"
            "CREATE INDEX CONCURRENTLY users_code_idx ON users (lower(code));",
            proof=Locks(LockMode.ACCESS_EXCLUSIVE, "users", Work.BUILD),
        ),
    ),
    source=("sql-altertable",),
    aliases=("changing-column-type", "change_column"),
)
