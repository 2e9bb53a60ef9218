"""How findings of any pillar are told: one file a format, found by name; its ``FORMAT`` renders the model here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dbsec.findings import Finding, Severity
from dbsec.waivers import Waiver


@dataclass(frozen=True, slots=True)
class Words:
    """What a rule or check says of itself; ``page`` is the address of what it rests on, or ""."""

    code: str
    name: str
    title: str
    severity: Severity
    effect: str = ""
    instead: str = ""
    page: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NotRead:
    """A path, or a place in it, that could not be judged; ``line`` 0 is the whole."""

    file: str
    line: int
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Results:
    """All that a format shows.

    ``counts``: what was judged, by name ("files": 3). ``words``: by code. ``baseline``: how many it holds
    back. ``notes``: paragraphs for a reader, after the findings.
    """

    command: str
    findings: Sequence[Finding]
    counts: Mapping[str, int] = field(default_factory=dict)
    unread: Sequence[NotRead] = ()
    words: Mapping[str, Words] = field(default_factory=dict)
    waived: Sequence[tuple[Finding, Waiver]] = ()
    baseline: int = 0
    notes: Sequence[str] = ()

    def number(self, severity: Severity) -> int:
        """Count the findings of one severity."""
        return sum(finding.severity is severity for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Format:
    """``render`` gives the whole text, with a newline at its end where it is not empty."""

    render: Callable[[Results], str]
