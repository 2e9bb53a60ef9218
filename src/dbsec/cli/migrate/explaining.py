"""``dbsec migrate rules``: a rule as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dbsec.migrations import pages
from dbsec.migrations.rule import Rule


def told(rule: Rule) -> dict[str, Any]:
    """Shape: the words of a rule by name, with ``proof`` in words."""
    example = rule.example
    return {
        "code": rule.code,
        "name": rule.name,
        "title": rule.title,
        "severity": str(rule.severity),
        "hazard": str(rule.hazard),
        "since": rule.since,
        "until": rule.until,
        "mechanical": rule.mechanical,
        "effect": rule.effect,
        "instead": rule.instead,
        "setup": example.setup,
        "bad": example.bad,
        "good": example.good,
        "proof": pages.proven(example.proof),
        "aliases": list(rule.aliases),
        "sources": [pages.MANUAL.format(page=page) for page in rule.source],
    }


def table(rules: Iterable[Rule]) -> str:
    """List rules, one a line."""
    rows = [(rule.code, str(rule.severity), rule.name, rule.title) for rule in rules]
    width = max((len(name) for _, _, name, _ in rows), default=0)
    return "".join(f"{code}  {severity:<7}  {name:<{width}}  {title}\n" for code, severity, name, title in rows)
