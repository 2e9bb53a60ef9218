"""A scan or a copy in a transaction (or a statement) that already holds a table."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects import foretell
from dbsec.migrations.effects.model import LockMode, Task, Work
from dbsec.migrations.names import Name
from dbsec.migrations.operations import CreateTableAs, OnTable, Operation, TransactionControl, Write
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Rule, Step
from dbsec.migrations.rules import _fixes, _source
from dbsec.migrations.rules._words import blocked, full, hazard, is_empty, is_old, unsure, waits
from dbsec.migrations.script import Wrap
from dbsec.migrations.statement import Origin

_NEAR = 32  # so many acts to both sides: more clauses has no statement
_CATALOGS = ("pg_catalog", "information_schema")
_DOES = {
    Work.REWRITE: "writes '{}' anew",
    Work.SCAN: "reads every row of '{}'",
    Work.FK_SCAN: "looks up every row of '{}'",
    Work.BUILD: "builds an index over '{}'",
    Work.WRITE: "writes rows of '{}'",
}


def _match(step: Step) -> Iterator[Hit]:
    if not step.effect.work and not isinstance(step.operation, CreateTableAs):
        return
    if isinstance(step.operation, Write) or blocked(step):
        return  # rows written under a lock, and work under a lock of its own, have rules of their own
    task = next(_long(step), None)
    held = _held(step) if task is not None else None
    if task is None or held is None:
        return
    name, mode, since = held
    yield Hit(
        str(task.table),
        f"it {_DOES[task.work].format(task.table)} while {since} holds {mode.sql} on '{name}': {waits(mode)} there "
        f"until the work and the transaction are done{unsure(step)}",
        _apart(step),
        hazard=hazard(mode),
        table=task.table,
    )


def _long(step: Step) -> Iterator[Task]:
    """Yield the work that grows with a table; to copy what a query reads is such work too."""
    yield from (task for task in step.effect.work if not is_empty(step.schema, task.table))
    if isinstance(step.operation, CreateTableAs) and step.operation.with_data:
        read = (name for name in step.operation.reads if name.schema not in _CATALOGS)
        yield from (Task(Work.SCAN, full(step.schema, name)) for name in read if not is_empty(step.schema, name))


def _held(step: Step) -> tuple[Name, LockMode, str] | None:
    """Find the strongest lock that others feel: of the transaction so far, or of another clause of the statement."""
    found = [(mode, name, "the transaction") for name, mode in step.session.held.items()]
    for statement, operation in (*step.preceding[-_NEAR:], *step.following[:_NEAR]):
        if statement is step.statement and operation is not step.operation:
            beside = foretell(operation, step.schema, step.session, in_transaction=statement.in_transaction)
            found += [(mode, name, "another clause of the statement") for name, mode in beside.locks]
    felt = [one for one in found if one[0].blocks_writes and is_old(step.schema, one[1])]
    if not felt:
        return None
    mode, name, since = max(felt, key=lambda one: one[0])
    return name, mode, since


def _apart(step: Step) -> str:
    """Write the same statements with the long one behind the COMMIT."""
    statement, own = step.statement, f"{_source.bare(step.statement.text)};"
    clauses = _clauses_beside(step)
    if statement.origin is not Origin.DIRECT:
        return ""
    if clauses and isinstance(step.operation, OnTable):
        table = step.operation.table
        return _fixes.lines([_fixes.alter(table, ", ".join(clauses)), _fixes.alter(table, step.operation.clause)])
    if statement.script.wrap is Wrap.FILE:
        return f"-- in a migration of its own, after this one:\n{own}"
    return _fixes.lines(["BEGIN;", *_before(step), "COMMIT;", own])


def _clauses_beside(step: Step) -> list[str]:
    acts = (*step.preceding[-_NEAR:], *step.following[:_NEAR])
    return [act.clause for statement, act in acts if statement is step.statement and act is not step.operation]


def _before(step: Step) -> list[str]:
    """List what the transaction did before, each statement once."""
    acts = [one for one in step.preceding if one[0].block == step.statement.block]
    texts = [_source.bare(statement.text) for statement, act in acts if not isinstance(act, TransactionControl)]
    return list(dict.fromkeys(texts))


RULE = Rule(
    code="MIG113",
    name="work-while-locked",
    title="Long work in a transaction that already keeps others out",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(Operation,),
    match=_match,
    effect="A lock is kept to the end of its transaction. What follows in it (VALIDATE, a copy, a refresh) takes its "
    "time while the lock of the statement before keeps others out, however harmless that statement was.",
    instead="End the transaction after the DDL, and do the work in transactions of its own; a backfill in batches. "
    "Tools that wrap a file: two files.",
    example=Example(
        setup="CREATE TABLE orders (id bigint PRIMARY KEY, total int);\n"
        "INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) AS n;",
        bad="BEGIN;\n"
        "ALTER TABLE orders ADD CONSTRAINT orders_total_check CHECK (total > 0) NOT VALID;\n"
        "ALTER TABLE orders VALIDATE CONSTRAINT orders_total_check;\n"
        "COMMIT;",
        good="ALTER TABLE orders ADD CONSTRAINT orders_total_check CHECK (total > 0) NOT VALID;\n"
        "ALTER TABLE orders VALIDATE CONSTRAINT orders_total_check;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "orders", Work.SCAN),
    ),
    source=("sql-altertable", "explicit-locking"),
    aliases=("validate_check_constraint", "validate_foreign_key", "E4"),
)
