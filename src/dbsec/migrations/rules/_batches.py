"""An UPDATE or DELETE as the first of many small ones."""

from __future__ import annotations

from dbsec.migrations.operations import Write
from dbsec.migrations.rule import Step
from dbsec.migrations.rules import _source
from dbsec.migrations.rules._expand import BATCH, key_of
from dbsec.migrations.rules._words import ident, sql

_AGAIN = "-- again, a transaction each, until no row is left (rows that are done must no longer match)"
_COMPLEX = ("fromClause", "usingClause", "returningClause", "returningList", "withClause")


def in_batches(step: Step, write: Write) -> str:
    """Write the first batch of an UPDATE or DELETE, and say how it goes on; "" for other statements."""
    node, text = step.statement.node, _source.bare(step.statement.text)
    if write.kind not in ("update", "delete") or "relation" not in node:
        return ""
    key = key_of(step, write.table)
    if any(key in node for key in _COMPLEX) or "alias" in node["relation"]:
        return (
            f"-- add to its WHERE a range of the key, a transaction each: {ident(key or 'id')} >= 1 AND … < {BATCH + 1}"
        )
    condition = _source.tail(text, "WHERE")
    if write.where is None or not condition:
        head = text[: text.rindex(condition)].rstrip().removesuffix("WHERE") if condition else text
        ranged = f"{head.rstrip()} WHERE {ident(key or 'id')} >= 1 AND {ident(key or 'id')} < {BATCH + 1};"
        return f"{ranged if key else '-- ' + ranged}\n-- and so on, range by range of the key, a transaction each"
    picked, table = ident(key or "ctid"), sql(write.table)
    head = text[: len(text) - len(condition)].rstrip()
    found = f"SELECT {picked} FROM {table} WHERE {condition} LIMIT {BATCH} FOR UPDATE SKIP LOCKED"
    return f"{head} {picked} IN ({found});\n{_AGAIN}"
