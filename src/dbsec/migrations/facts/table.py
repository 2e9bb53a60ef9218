"""The table of the playbook: chosen cases, as PostgreSQL measured them."""

from __future__ import annotations

from typing import Any

from dbsec.migrations import facts
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.facts import cases

CHOSEN = (
    *("add-column-nullable", "add-column-now-default", "add-column-uuid-default", "add-column-identity"),
    *("add-column-stored", "add-column-virtual", "add-column-domain-check", "add-column-inline-check"),
    *("add-column-inline-unique", "add-column-not-null-no-default", "set-not-null", "set-not-null-proven"),
    *("not-null-not-valid", "add-check", "add-check-not-valid", "validate-check", "add-foreign-key"),
    *("add-foreign-key-not-valid", "validate-foreign-key", "add-unique", "add-unique-using-index"),
    *("add-primary-key-using-index-nullable", "type-varchar-widen", "type-varchar-to-text", "type-int-to-bigint"),
    *("type-varchar-shrink", "type-char-to-text", "type-numeric-scale", "type-timestamp-to-timestamptz-utc"),
    *("type-timestamp-to-timestamptz-zone", "type-varchar-widen-check", "type-varchar-widen-partial-predicate"),
    *("type-collate-change-indexed", "create-index", "create-index-concurrently"),
    *("reindex-table", "refresh-materialized-view", "refresh-materialized-view-concurrently", "vacuum-full"),
    *("set-unlogged", "attach-partition", "attach-partition-checked", "attach-partition-checked-default-rows"),
    *("create-partition-beside-default", "detach-partition", "create-table-references", "drop-foreign-key"),
    *("drop-column", "rename-column", "rename-table", "drop-table", "truncate"),
)
_HEAD = "| statement | locks, in the order of PostgreSQL | work under them | clients |\n|---|---|---|---|\n"


def markdown() -> str:
    """Return the table: a row a case, of the newest major that was measured; another major's row where it differs."""
    known = {case.id: case for case in cases.every()}
    rows = []
    for name in CHOSEN:
        case = known[name]
        seen = {major: found for major in facts.MEASURED if (found := facts.load(major)["cases"].get(name))}
        newest = max(seen)
        rows.append(_row(case, seen[newest], "" if len(seen) == len(facts.MEASURED) else f" ({min(seen)} and newer)"))
        rows += [_row(case, one, f" ({major})") for major, one in seen.items() if _told(one) != _told(seen[newest])]
    return _HEAD + "\n".join(rows) + "\n"


def _row(case: cases.Case, found: dict[str, Any], note: str) -> str:
    locks, work = _told(found)
    return f"| `{case.sql}`{note} | {locks} | {work} | {_clients(case, found)} |"


def _told(found: dict[str, Any]) -> tuple[str, str]:
    last = found["statements"][-1]
    if "error" in last:
        return "none", f"refused: {last['error']}"
    locks = sorted(last["locks"].items(), key=lambda item: (-item[1], item[0]))
    told = "; ".join(f"{_bare(table)}: {LockMode(mode).sql}" for table, mode in locks)
    return told or "none", "; ".join(f"{work} of {_bare(table)}" for work, table in last["work"]) or "none"


def _bare(table: str) -> str:
    return table.removeprefix("public.")


def _clients(case: cases.Case, found: dict[str, Any]) -> str:
    if case.harm == "release":
        return "the running release breaks" + (f" ({found['breaks']})" if found.get("breaks") else "")
    if case.harm:
        return {"data": "data is lost", "fails": "it fails"}.get(case.harm, case.harm)
    return "wait until it is done" if found["harmful"] else "go on"
