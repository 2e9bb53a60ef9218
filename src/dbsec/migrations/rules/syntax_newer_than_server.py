"""MIG513: a clause that the server's version does not know."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from dbsec.findings import Severity
from dbsec.migrations import tree
from dbsec.migrations.operations import AddConstraint, ConstraintKind, Operation, SetVariable
from dbsec.migrations.rule import Example, Hazard, Hit, Refused, Rule, Step
from dbsec.migrations.rules._examples import USERS
from dbsec.migrations.rules._words import ident, sql
from dbsec.migrations.statement import Node

_Stands = Callable[[Node], object]


class Clause(NamedTuple):
    """``since``: the first major that has it. ``word``: without which no text has it, in lower case. ``kinds``: of its
    node. ``stands``: whether such a node is it."""

    since: int
    said: str
    word: str
    kinds: tuple[str, ...]
    stands: _Stands


def _has(attribute: str, value: str | None = None) -> _Stands:
    return lambda node: bool(node.get(attribute)) if value is None else node.get(attribute) == value


def _unenforced(node: Node) -> bool:
    return node.get("contype") in ("CONSTR_CHECK", "CONSTR_FOREIGN") and not node.get("is_enforced")


_MEANT = {  # what must stand behind a word that is common: a column; no identity
    "null": re.compile(r"null\s*(?!(?:default|check|unique|primary|references|collate|constraint|not|null)\b)[^\s,);]"),
    "generated": re.compile(r"generated(?!\s+(?:always|by\s+default)\s+as\s+identity\b)"),
}
_CONSTRAINT, _COMMAND = ("Constraint",), ("AlterTableCmd",)
_CLAUSES = (
    Clause(18, "NOT ENFORCED", "enforced", _CONSTRAINT, _has("contype", "CONSTR_ATTR_NOT_ENFORCED")),
    Clause(18, "ENFORCED", "enforced", _CONSTRAINT, _has("contype", "CONSTR_ATTR_ENFORCED")),
    Clause(18, "NOT ENFORCED", "enforced", _CONSTRAINT, _unenforced),
    Clause(18, "ALTER CONSTRAINT … ENFORCED", "enforced", ("ATAlterConstraint",), _has("alterEnforceability")),
    Clause(18, "VIRTUAL generated columns", "generated", _CONSTRAINT, _has("generated_kind", "v")),
    Clause(18, "WITHOUT OVERLAPS", "overlaps", _CONSTRAINT, _has("without_overlaps")),
    Clause(18, "PERIOD in a foreign key", "period", _CONSTRAINT, _has("fk_with_period")),
    Clause(
        18,
        "NOT NULL as a table constraint",
        "null",
        _CONSTRAINT,
        lambda node: node.get("contype") == "CONSTR_NOTNULL" and node.get("keys"),
    ),
    Clause(17, "SET EXPRESSION", "expression", _COMMAND, _has("subtype", "AT_SetExpression")),
    Clause(
        17,
        "SET ACCESS METHOD DEFAULT",
        "access",
        _COMMAND,
        lambda node: node.get("subtype") == "AT_SetAccessMethod" and not node.get("name"),
    ),
    Clause(
        17,
        "MERGE … RETURNING",
        "merge",
        ("MergeStmt",),
        lambda node: node.get("returningClause") or node.get("returningList"),
    ),
    Clause(16, "STORAGE in CREATE TABLE", "storage", ("ColumnDef",), _has("storage_name")),
    Clause(
        16, "CREATE STATISTICS without a name", "statistics", ("CreateStatsStmt",), lambda node: "defnames" not in node
    ),
    Clause(15, "MERGE", "merge", ("MergeStmt",), lambda _: True),
    Clause(15, "NULLS NOT DISTINCT", "nulls", ("Constraint", "IndexStmt"), _has("nulls_not_distinct")),
    Clause(15, "SET ACCESS METHOD", "access", _COMMAND, _has("subtype", "AT_SetAccessMethod")),
    Clause(15, "a list of columns behind ON DELETE SET NULL", "delete", _CONSTRAINT, _has("fk_del_set_cols")),
    Clause(15, "security_invoker", "security_invoker", ("DefElem",), _has("defname", "security_invoker")),
)
_KINDS = frozenset(("CreateStmt", "AlterTableStmt", "IndexStmt", "MergeStmt", "CreateStatsStmt", "ViewStmt"))
_VARIABLES = {
    "transaction_timeout": 17,
    "event_triggers": 17,
    "createrole_self_grant": 16,
    "stats_fetch_consistency": 15,
}


def _match(step: Step) -> Iterator[Hit]:
    if isinstance(step.operation, SetVariable):
        since, said = _VARIABLES.get(step.operation.name, 0), step.operation.name
    elif step.first and step.statement.kind in _KINDS:
        since, said = _newest(step)
    else:
        return
    if since > step.major:
        yield Hit(
            said, f"{said} came with PostgreSQL {since}: on {step.major} the statement ends with an error", _fix(step)
        )


def _fix(step: Step) -> str:
    """NOT NULL … NOT VALID has a form that older servers know."""
    act = step.operation
    if not isinstance(act, AddConstraint) or act.constraint.kind is not ConstraintKind.NOT_NULL:
        return ""
    (column,) = act.constraint.columns
    name = ident(act.constraint.name or f"{act.table.name}_{column}_not_null")
    return f"ALTER TABLE {sql(act.table)} ADD CONSTRAINT {name} CHECK ({ident(column)} IS NOT NULL) NOT VALID;"


@cache
def _unknown_to(major: int) -> tuple[Clause, ...]:
    return tuple(clause for clause in _CLAUSES if clause.since > major)


def _is_meant(word: str, text: str) -> bool:
    pattern = _MEANT.get(word)
    return pattern is None or pattern.search(text) is not None


def _newest(step: Step) -> tuple[int, str]:
    text = step.statement.text.lower()
    lacking = [clause for clause in _unknown_to(step.major) if clause.word in text and _is_meant(clause.word, text)]
    if not lacking:
        return 0, ""
    found = [
        (clause.since, clause.said)
        for kind, node in tree.walk({step.statement.kind: step.statement.node})
        for clause in lacking
        if kind in clause.kinds and clause.stands(node)
    ]
    return max(found, default=(0, ""), key=lambda one: one[0])


RULE = Rule(
    code="MIG513",
    name="syntax-newer-than-server",
    title="A clause that the server's version does not have",
    severity=Severity.ERROR,
    hazard=Hazard.FAILS,
    applies=(Operation,),
    match=_match,
    effect="The parser here is that of PostgreSQL 18 and reads what an older server refuses (42601, 0A000, 42704). In "
    "a transaction the statements before it are undone; in a file of single statements they stay, and the rest is "
    "missing.",
    instead="Say the version that production has (--pg-version, or --dsn), and write what it has. Below 18, NOT NULL "
    "goes through CHECK (x IS NOT NULL) NOT VALID, VALIDATE and SET NOT NULL.",
    example=Example(
        setup=USERS,
        bad="ALTER TABLE app.users ADD CONSTRAINT users_email_form CHECK (email LIKE '%@%') NOT ENFORCED;",
        good="ALTER TABLE app.users ADD CONSTRAINT users_email_form CHECK (email LIKE '%@%') NOT VALID;",
        proof=Refused("42601"),
    ),
    more=(
        Example(
            setup=USERS,
            bad="ALTER TABLE app.users ADD CONSTRAINT users_phone_given NOT NULL phone NOT VALID;",
            good="ALTER TABLE app.users ADD CONSTRAINT users_phone_given CHECK (phone IS NOT NULL) NOT VALID;",
            proof=Refused("42601"),
        ),
    ),
    source=("sql-altertable", "sql-createtable"),
    until=17,
)
