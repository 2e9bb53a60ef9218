"""MIG504: SET LOCAL without a transaction sets nothing."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.operations import SetVariable
from dbsec.migrations.rule import Example, Hazard, Hit, Rule, Step, Warned
from dbsec.migrations.rules._examples import USERS


def _match(step: Step) -> Iterator[Hit]:
    act = step.operation
    assert isinstance(act, SetVariable)
    if not act.local or step.statement.in_transaction:
        return
    value = "DEFAULT" if act.value is None else "'" + act.value.replace("'", "''") + "'"
    fix = f"SET {act.name} = {value};" if step.statement.kind == "VariableSetStmt" else ""
    if "transaction" in act.name:
        fix = ""
    yield Hit(
        act.name,
        f"{act.name} is not set: SET LOCAL lasts to the end of its transaction, and this one ends with the statement",
        fix,
    )


RULE = Rule(
    code="MIG504",
    name="set-local-outside-transaction",
    title="SET LOCAL outside a transaction",
    severity=Severity.WARNING,
    hazard=Hazard.UNSAFE,
    applies=(SetVariable,),
    match=_match,
    effect="PostgreSQL answers with WARNING 25P01 and sets nothing. A lock_timeout that was meant to protect what "
    "follows is not in force, and the file looks as if it were.",
    instead="SET without LOCAL, and RESET at the end; or BEGIN before and COMMIT after what it shall protect.",
    example=Example(
        setup=USERS,
        bad="SET LOCAL lock_timeout = '2s';\nALTER TABLE app.users ADD COLUMN country text;",
        good="SET lock_timeout = '2s';\nALTER TABLE app.users ADD COLUMN country text;",
        proof=Warned("25P01"),
    ),
    source=("sql-set",),
)
