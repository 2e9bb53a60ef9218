"""MIG510: a new enum value is used before it is committed."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations import tree
from dbsec.migrations.names import Name
from dbsec.migrations.operations import (
    AddColumn,
    AddConstraint,
    AlterColumnType,
    CreateDomain,
    CreateIndex,
    CreatePolicy,
    CreateTable,
    CreateTableAs,
    CreateType,
    CreateView,
    Query,
    SetDefault,
    Write,
)
from dbsec.migrations.rule import Example, Hazard, Hit, Needs, Refused, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._release import earlier_in_transaction
from dbsec.migrations.rules._words import sql, target


def _match(step: Step) -> Iterator[Hit]:
    if not step.session.added_values or not step.first:
        return
    used = {text for kind, node in tree.walk(step.statement.node) if kind == "A_Const" and (text := _text(node))}
    for name, labels in step.session.added_values.items():
        for label in sorted(labels & used):
            if not _made_here(step, name):
                yield Hit(
                    target(step, name, label),
                    f"'{label}' was added to '{name}' in this transaction: using it before the commit fails with "
                    "55P04, and the transaction is undone",
                    _fix(step, name, label),
                )


def _fix(step: Step, name: Name, label: str) -> str:
    quoted = label.replace("'", "''")
    return f"ALTER TYPE {sql(name)} ADD VALUE IF NOT EXISTS '{quoted}';\n{step.statement.text.rstrip(';')};"


def _text(constant: dict[str, object]) -> str:
    value = constant.get("sval")
    return str(value.get("sval", "")) if isinstance(value, dict) else ""


def _made_here(step: Step, name: Name) -> bool:
    """A type that the same transaction made may be used at once."""
    return any(isinstance(act, CreateType) and act.name == name for _, act in earlier_in_transaction(step))


RULE = Rule(
    code="MIG510",
    name="enum-value-in-its-transaction",
    title="A new enum value is used in the transaction that adds it",
    severity=Severity.ERROR,
    hazard=Hazard.FAILS,
    applies=(
        AddColumn,
        AddConstraint,
        AlterColumnType,
        CreateDomain,
        CreateIndex,
        CreatePolicy,
        CreateTable,
        CreateTableAs,
        CreateView,
        Query,
        SetDefault,
        Write,
    ),
    needs=Needs.TRANSACTION,
    match=_match,
    effect="ALTER TYPE … ADD VALUE may stand in a transaction, but the value is unsafe until it is committed: an "
    "INSERT, a DEFAULT or a CHECK that names it fails with 55P04. A migration tool that wraps the file makes one "
    "transaction of both.",
    instead="Add the value in a migration of its own and use it in the next one. A type that is made in the same "
    "transaction is exempt.",
    example=Example(
        setup=USERS
        + "CREATE TYPE app.mood AS ENUM ('sad', 'happy');\nALTER TABLE app.users ADD COLUMN mood app.mood;\n",
        bad="BEGIN;\nALTER TYPE app.mood ADD VALUE 'calm';\nUPDATE app.users SET mood = 'calm' WHERE id = 7;\nCOMMIT;",
        good="ALTER TYPE app.mood ADD VALUE 'calm';\nUPDATE app.users SET mood = 'calm' WHERE id = 7;",
        proof=Refused("55P04"),
    ),
    source=("sql-altertype",),
)
