"""MIG514: BEGIN and COMMIT do not pair."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import TransactionControl
from dbsec.migrations.rule import Example, Hazard, Hit, Rule, Step, Warned
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.script import Wrap
from dbsec.migrations.statement import Origin

_ENDS = ("commit", "rollback", "prepare")


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, TransactionControl)
    script, statement = step.statement.script, step.statement
    if statement.origin is not Origin.DIRECT:
        return
    if act.act == "begin" and _is_open(step):
        if script.wrap is Wrap.FILE and not _opened_by_script(step):
            said = (
                f"{script.tool} has opened a transaction around the file: BEGIN gives a warning, and the COMMIT that "
            )
            said += "belongs to it ends the tool's transaction, with what follows in none"
        else:
            said = "a transaction is open already: BEGIN gives WARNING 25001, and the first COMMIT ends both"
        yield Hit("BEGIN", said)
    elif act.act == "begin" and not any(_ends(operation) for _, operation in step.following):
        yield Hit("BEGIN", "no COMMIT follows: all that the file does is undone when the session ends", "COMMIT;")
    elif act.act in _ENDS and not statement.in_transaction:
        yield Hit(act.act.upper(), f"no transaction is open: {act.act.upper()} gives WARNING 25P01 and does nothing")


def _ends(operation: object) -> bool:
    return isinstance(operation, TransactionControl) and operation.act in _ENDS


def _is_open(step: Step) -> bool:
    """The statement before ran in the same block, or the tool's transaction is still open."""
    block = step.statement.block
    if any(statement.block == block for statement, _ in step.preceding):
        return True
    return step.statement.script.wrap is Wrap.FILE and not any(_ends(operation) for _, operation in step.preceding)


def _opened_by_script(step: Step) -> bool:
    block = step.statement.block
    return any(
        isinstance(operation, TransactionControl) and operation.act == "begin" and statement.block == block
        for statement, operation in step.preceding
    )


RULE = Rule(
    code="MIG514",
    name="transaction-left-open",
    title="BEGIN and COMMIT do not pair",
    severity=Severity.WARNING,
    hazard=Hazard.UNSAFE,
    applies=(TransactionControl,),
    match=_match,
    effect="PostgreSQL has no nested transactions: a second BEGIN gives WARNING 25001, the first COMMIT ends "
    "everything, and the next one finds nothing to end (25P01). A BEGIN without COMMIT keeps every lock until the "
    "session ends, and then undoes the work.",
    instead="One BEGIN and one COMMIT a unit of work; SAVEPOINT inside of it. Leave both out of files that a tool "
    "wraps in a transaction.",
    example=Example(
        setup=USERS,
        bad="BEGIN;\nBEGIN;\nALTER TABLE app.users ADD COLUMN country text;\nCOMMIT;",
        good="BEGIN;\nALTER TABLE app.users ADD COLUMN country text;\nCOMMIT;",
        proof=Warned("25001"),
    ),
    source=("sql-begin", "sql-savepoint"),
    aliases=("ban-uncommitted-transaction", "transaction-nesting"),
)
