"""MIG505: rows are written while the transaction's DDL keeps everybody out."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import TransactionControl, Write
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Rule, Step
from dbsec.migrations.rules._batches import in_batches
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import earlier_in_transaction, few_rows, held
from dbsec.migrations.rules._words import hazard, is_empty, target, waits
from dbsec.migrations.script import Wrap

_SHOWN = 10  # statements before the write that a fix repeats


def _match(step: Step) -> Iterator[Hit]:
    write = step.operation
    assert isinstance(write, Write)
    if not is_backfill_under_lock(step, write):
        return
    found = held(step, LockMode.SHARE)
    assert found is not None
    name, mode = found
    yield Hit(
        target(step, write.table),
        f"the transaction holds {mode.sql} on '{name}' since an earlier statement: {waits(mode)} until every row of "
        f"this {write.kind.upper()} is written and it commits",
        _fix(step),
        hazard=hazard(mode),
        table=write.table,
    )


def is_backfill_under_lock(step: Step, write: Write) -> bool:
    """Tell whether the write takes time that grows with a table, under a lock of the open transaction."""
    if few_rows(step, write) or held(step, LockMode.SHARE) is None:
        return False
    touched = (write.table, *write.reads) if write.kind == "insert" else (write.table,)
    return write.kind == "copy" or not all(is_empty(step.schema, name) for name in touched)


def _fix(step: Step) -> str:
    text = step.statement.text.rstrip(";")
    if step.statement.script.wrap is Wrap.FILE:
        return f"-- in a migration of its own, after this one, in batches:\n{text};"
    earlier = dict.fromkeys(
        statement.text.rstrip(";") + ";"
        for statement, operation in earlier_in_transaction(step)
        if not isinstance(operation, TransactionControl)
    )
    before = "\n".join(["BEGIN;", *reversed(earlier), "COMMIT;"]) if len(earlier) <= _SHOWN else "COMMIT;"
    assert isinstance(step.operation, Write)
    return f"{before}\n{in_batches(step, step.operation) or f'{text};'}"


RULE = Rule(
    code="MIG505",
    name="backfill-in-ddl-transaction",
    title="Rows are written in the transaction that holds a table's lock",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(Write,),
    match=_match,
    effect="A lock is held to the end of its transaction. ALTER TABLE takes ACCESS EXCLUSIVE for a millisecond of "
    "work, and the UPDATE behind it in the same transaction keeps it for minutes: every SELECT on the table waits. "
    "Tools that wrap a file in a transaction do this to a file that looks like two harmless statements.",
    instead="Commit the DDL, then write the rows in a migration of its own, in batches of a transaction each.",
    example=Example(
        setup=USERS,
        bad="BEGIN;\nALTER TABLE app.users ADD COLUMN country text;\n"
        "UPDATE app.users SET country = 'nl' WHERE country IS NULL;\nCOMMIT;",
        good="ALTER TABLE app.users ADD COLUMN country text;\n"
        "UPDATE app.users SET country = 'nl' WHERE id BETWEEN 1 AND 500;\n"
        "UPDATE app.users SET country = 'nl' WHERE id BETWEEN 501 AND 1000;",
        proof=Locks(LockMode.ACCESS_EXCLUSIVE, "app.users", Work.WRITE),
    ),
    source=("explicit-locking", "sql-altertable"),
    aliases=("E4", "running-statement-while-holding-access-exclusive"),
)
