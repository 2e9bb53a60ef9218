"""What a rule says of itself, as Markdown: ``docs/rules/`` and ``dbsec migrate rules`` show the same page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from dbsec.migrations.rule import (
    Breaks,
    Example,
    Locks,
    Loses,
    Proof,
    Queues,
    Refused,
    Rule,
    Shows,
    Warned,
)

MANUAL = "https://www.postgresql.org/docs/current/{page}.html"
GROUPS = {
    "MIG1": "Locks",
    "MIG2": "Rewrites and scans",
    "MIG3": "Breaks the running release",
    "MIG4": "Loses data",
    "MIG5": "Unsafe environment",
}


def page(rule: Rule) -> str:
    """Write all that is known of one rule."""
    return "\n\n".join(part.strip() for part in _parts(rule)) + "\n"


def table(rules: Iterable[Rule], *, linked: bool) -> str:
    """List rules as a table; ``linked``: to their pages beside it."""
    rows = ["| code | rule | severity | hazard | what it finds |", "|---|---|---|---|---|"]
    for rule in sorted(rules, key=lambda rule: rule.code):
        code = f"[{rule.code}]({rule.code}.md)" if linked else rule.code
        rows.append(f"| {code} | {rule.name} | {rule.severity} | {rule.hazard} | {_cell(rule.title)} |")
    return "\n".join(rows) + "\n"


def versions(rule: Rule) -> str:
    """Say for which majors a rule holds."""
    if rule.until is not None:
        return f"{rule.since} to {rule.until}" if rule.until != rule.since else str(rule.since)
    return f"{rule.since} and newer"


def proven(proof: Proof) -> str:
    """Say how a contract test sees the harm on a real server."""
    match proof:
        case Locks(mode, table, None):
            return f"While `bad` runs, pg_locks shows {mode.sql} on `{table}`; `good` does not hold it for that."
        case Locks(mode, table, work):
            seen = f"pg_locks shows {mode.sql} on `{table}`, and the server does this meanwhile: {work}"
            return f"While `bad` runs, {seen}. `good` does no such work under a lock that blocks writes."
        case Breaks(old, sqlstate):
            return (
                f"A statement of the running release works before, fails with SQLSTATE {sqlstate} after `bad`, and "
                f"works after `good`:\n\n{_sql(old)}"
            )
        case Loses(query):
            return f"This query gives the same rows before and after `good`, and not after `bad`:\n\n{_sql(query)}"
        case Refused(sqlstate):
            return f"PostgreSQL refuses `bad` with SQLSTATE {sqlstate}, and runs `good`."
        case Warned(sqlstate):
            return f"PostgreSQL answers `bad` with a notice of SQLSTATE {sqlstate}; `good` gives none."
        case Queues(blocker, table, sqlstate):
            return (
                f"While another session holds what this takes, `bad` waits, and a SELECT on `{table}` waits behind it; "
                f"`good` gives up by itself ({sqlstate}) or does not wait:\n\n{_sql(blocker)}"
            )
        case Shows(query, after_bad):
            return f"This query gives `{after_bad}` after `bad`, and something else after `good`:\n\n{_sql(query)}"


def _parts(rule: Rule) -> Iterator[str]:
    yield f"# {rule.code} {rule.name}"
    yield f"{rule.title}."
    mends = "yes" if rule.mechanical else "no"
    head = "| severity | hazard | PostgreSQL | `--fix` |\n|---|---|---|---|"
    yield f"{head}\n| {rule.severity} | {rule.hazard} | {versions(rule)} | {mends} |"
    yield f"## What PostgreSQL does\n\n{rule.effect}"
    yield f"## Instead\n\n{rule.instead}"
    yield from _example(rule.example, "")
    for number, example in enumerate(rule.more, start=2):
        yield from _example(example, f" {number}")
    yield f"## To accept it\n\n    -- dbsec: allow {rule.code} OBJECT until YYYY-MM-DD because REASON"
    if rule.aliases:
        yield "## Other names\n\n" + "\n".join(f"- {_alias(alias)}" for alias in rule.aliases)
    pages = "\n".join(f"- [{page}]({MANUAL.format(page=page)})" for page in rule.source)
    yield f"## Sources\n\nPostgreSQL's manual:\n\n{pages}"


def _example(example: Example, number: str) -> Iterator[str]:
    yield f"## Example{number}\n\nGiven:\n\n{_sql(example.setup)}"
    yield f"Bad:\n\n{_sql(example.bad)}"
    yield f"Good:\n\n{_sql(example.good)}"
    yield f"Both run in the contract suite on real servers. {proven(example.proof)}"


def _alias(alias: str) -> str:
    if re.fullmatch(r"[EW]\d+", alias):
        return f"eugene: `{alias}`"
    if "_" in alias:
        return f"strong_migrations: `{alias}`"
    return f"squawk: `{alias}` (honoured in `-- squawk-ignore {alias}`)"


def _sql(text: str) -> str:
    fence = "````" if "```" in text else "```"
    return f"{fence}sql\n{text.strip()}\n{fence}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
