"""The linter before a run: what waits is judged against the schema as it stands, waivers counted."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from dbsec import waivers
from dbsec.findings import Finding, Severity
from dbsec.migrations.linter import Options, all_rules, lint
from dbsec.migrations.runner.obstacle import Block, Obstacle
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script, Unread
from dbsec.migrations.suppress import suppress

# The runner and the hooks set lock_timeout and statement_timeout for each statement.
_TIMEOUTS = frozenset({"no-lock-timeout"})


@dataclass(frozen=True, slots=True)
class Linted:
    """``unread``: what could not be judged, which is no pass."""

    findings: tuple[Finding, ...] = ()
    unread: tuple[Unread, ...] = ()

    def obstacles(self) -> list[Obstacle]:
        """Make an obstacle of each error, which only a waiver goes past, and of what is unread."""
        return [*errors(self.findings), *map(_not_judged, self.unread)]


def judged(
    scripts: Sequence[Script], schema: Schema, *, major: int, waived: str, today: date, begun: Set[str] = frozenset()
) -> Linted:
    """Lint scripts as one release; ``schema`` is changed. ``waived``: a waiver file, "" for the one in this folder.

    ``begun``: paths of files that were interrupted, whose indexes may be there. Errors: ``ConfigError`` for a waiver
    file that cannot be read.
    """
    broken = {index.name for table in schema.tables.values() for index in table.indexes.values() if not index.valid}
    result = lint(scripts, schema=schema, options=Options(major=major))
    rules = all_rules()
    kept = suppress(result, scripts, rules=rules, chosen=rules, entries=_entries(waived), today=today)
    found = (one for one in kept.result.findings if not _is_settled(one, broken, begun))
    return Linted((*found, *kept.own), tuple(result.unread))


def builds_what_is_there(finding: Finding) -> bool:
    """Tell what whoever runs CONCURRENTLY sees to where an earlier attempt left it: the index is there."""
    return is_taken(finding) and "CONCURRENTLY" in str(finding.where.get("statement")).upper()


def is_taken(finding: Finding) -> bool:
    """Tell whether what a statement makes is there already."""
    return finding.name == "refused-by-postgresql" and "already exists" in finding.message


def _is_settled(finding: Finding, broken: Set[str], begun: Set[str]) -> bool:
    if finding.name in _TIMEOUTS:
        return True
    known = finding.where.get("file") in begun or any(f'"{name}"' in finding.message for name in broken)
    return known and builds_what_is_there(finding)


def errors(findings: Sequence[Finding]) -> list[Obstacle]:
    """Make an obstacle of each error."""
    return [
        Obstacle(
            Block.LINT,
            f"{one.where.get('file', '')}:{one.where.get('line', 0)}: {one.code} {one.name}: {one.message}",
            one.fix or f"dbsec migrate rules {one.code}",
        )
        for one in findings
        if one.severity is Severity.ERROR
    ]


def _not_judged(one: Unread) -> Obstacle:
    hint = one.hint or f"dbsec migrate lint {one.path}"
    return Obstacle(Block.LINT, f"{one}: it could not be judged", hint, unknown=True, forcible=True)


def _entries(given: str) -> list[waivers.Waiver]:
    path = Path(given or waivers.FILE)
    return waivers.load(path) if given or path.exists() else []
