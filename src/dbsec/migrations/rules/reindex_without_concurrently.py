"""REINDEX without CONCURRENTLY."""

from __future__ import annotations

from collections.abc import Iterator

from dbsec.findings import Severity
from dbsec.migrations.effects.model import LockMode, Work
from dbsec.migrations.operations import Reindex
from dbsec.migrations.rule import Example, Hazard, Hit, Locks, Rule, Step
from dbsec.migrations.rules import _source
from dbsec.migrations.rules._words import is_empty, sql, target, unsure

_KEYWORDS = {"index": "INDEX", "table": "TABLE", "schema": "SCHEMA", "database": "DATABASE"}


def _match(step: Step) -> Iterator[Hit]:
    operation = step.operation
    assert isinstance(operation, Reindex)
    if operation.concurrently or _spares_everybody(step, operation):
        return
    what = operation.kind.upper() + (f" {sql(operation.name)}" if operation.name is not None else "")
    keyword = _KEYWORDS.get(operation.kind)
    yield Hit(
        _target(step, operation),
        f"REINDEX {what} builds under SHARE on the table and ACCESS EXCLUSIVE on the index: writes wait until it is "
        f"done, and so does every query that PostgreSQL plans, because planning looks at each index{unsure(step)}",
        _source.after(_source.bare(operation.clause), keyword, "CONCURRENTLY") + ";" if keyword else "",
    )


def _spares_everybody(step: Step, operation: Reindex) -> bool:
    if operation.name is None or operation.kind not in ("index", "table"):
        return False
    if operation.kind == "table":
        return is_empty(step.schema, operation.name)
    index = step.schema.index(operation.name)
    return is_empty(step.schema, index.table) if index is not None else step.schema.known


def _target(step: Step, operation: Reindex) -> str:
    if operation.name is None:
        return operation.kind
    if operation.kind == "table":
        return target(step, operation.name)
    return str(step.schema.qualified(operation.name) if operation.kind == "index" else operation.name)


RULE = Rule(
    code="MIG103",
    name="reindex-without-concurrently",
    title="REINDEX keeps writers out, and in the end readers too",
    severity=Severity.ERROR,
    hazard=Hazard.BLOCKS_ALL,
    applies=(Reindex,),
    match=_match,
    effect="REINDEX holds SHARE on the table and ACCESS EXCLUSIVE on the index that it builds. Writes wait, and reads "
    "wait as well, since the planner opens every index of a table.",
    instead="REINDEX … CONCURRENTLY builds a second index beside the old one and swaps them; it runs outside a "
    "transaction. Of a failed one an INVALID index with the suffix _ccnew is left: drop it.",
    example=Example(
        setup="CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint);\n"
        "CREATE INDEX orders_customer_idx ON orders (customer);\n"
        "INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) AS n;",
        bad="REINDEX INDEX orders_customer_idx;",
        good="REINDEX INDEX CONCURRENTLY orders_customer_idx;",
        proof=Locks(LockMode.SHARE, "orders", Work.BUILD),
    ),
    source=("sql-reindex", "explicit-locking"),
    aliases=("require-concurrent-reindex",),
    mechanical=True,
)
