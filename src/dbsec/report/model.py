"""The frozen model of a report: what was seen of each control before and after, and what that proves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dbsec.evidence import Outcome, Phase, worst


@dataclass(frozen=True, slots=True)
class Seen:
    """One observation. ``line`` is its number in the evidence (1 is the first)."""

    line: int
    chapter: str
    control: str
    title: str
    risk: str
    refs: tuple[str, ...]
    drill: str
    phase: Phase
    outcome: Outcome
    summary: str
    facts: Mapping[str, Any]
    exhibits: tuple[Mapping[str, Any], ...]
    started_at: str
    seconds: float

    @property
    def vacuous(self) -> bool:
        """An attack that fails on the unhardened system proves nothing later: an error of ours, not a success."""
        return self.phase is Phase.BEFORE and self.outcome is Outcome.PASS

    @property
    def judged(self) -> Outcome:
        return Outcome.ERROR if self.vacuous else self.outcome


@dataclass(frozen=True, slots=True)
class DrillResult:
    """Everything one drill saw, in the order baseline, before, during, after."""

    name: str
    seen: tuple[Seen, ...]

    @property
    def vacuous(self) -> bool:
        return any(s.vacuous for s in self.seen)

    @property
    def only_looked(self) -> bool:
        return all(s.phase is Phase.BASELINE for s in self.seen)

    def outcome(self, *phases: Phase) -> Outcome | None:
        """Fold what was seen in these phases; None where nothing was."""
        outcomes = [s.judged for s in self.seen if s.phase in phases]
        return worst(outcomes) if outcomes else None

    @property
    def verdict(self) -> Outcome:
        """Say what the drill proves of its control.

        Without an after, or where before was not FAIL, it proves nothing: ERROR, unless after is FAIL anyway.
        """
        if self.only_looked:
            return worst(s.outcome for s in self.seen)
        before, after = self.outcome(Phase.BEFORE), self.outcome(Phase.DURING, Phase.AFTER)
        if after is None:
            return Outcome.ERROR
        contrast = before in (None, Outcome.FAIL) or before is after is Outcome.SKIP
        return after if contrast else worst((after, Outcome.ERROR))


@dataclass(frozen=True, slots=True)
class ControlResult:
    """One control and its drills. ``anchor`` is unique on the page."""

    id: str
    title: str
    risk: str
    refs: tuple[str, ...]
    chapter: str
    anchor: str
    drills: tuple[DrillResult, ...]
    before: Outcome | None
    after: Outcome | None
    verdict: Outcome

    @property
    def seen(self) -> tuple[Seen, ...]:
        return tuple(s for d in self.drills for s in d.seen)

    @property
    def vacuous(self) -> bool:
        return any(d.vacuous for d in self.drills)

    @property
    def attacks(self) -> tuple[DrillResult, ...]:
        """The drills that did more than look at the system as found."""
        return tuple(d for d in self.drills if not d.only_looked)

    @property
    def hardened(self) -> bool:
        """Whether this run acted on it; otherwise it only looked at the system as found."""
        return bool(self.attacks)


@dataclass(frozen=True, slots=True)
class Chapter:
    name: str
    title: str
    summary: str
    anchor: str
    controls: tuple[ControlResult, ...]


@dataclass(frozen=True, slots=True)
class Totals:
    """``controls`` leaves out those that do not apply (``skipped``); attacks are counted by drill.

    ``attacks_refused`` are those of ``attacks_before`` that fail now.
    """

    controls: int
    held: int
    failed: int
    unproven: int
    skipped: int
    attacks_before: int
    attacks_refused: int
    attacks_after: int
    vacuous: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Who, where, with what, against what: each value that the lines carry, in the order of its first line."""

    actor: tuple[str, ...]
    host: tuple[str, ...]
    dbsec: tuple[str, ...]
    revision: tuple[str, ...]
    config_digest: tuple[str, ...]
    ticket: tuple[str, ...]
    target: Mapping[str, Any]
    started_at: str
    ended_at: str
    lines: int
    head: str


@dataclass(frozen=True, slots=True)
class Integrity:
    """What ``dbsec.evidence.verify`` said, without a key, when the report was built; ``text`` for the reader."""

    intact: bool
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """All that a format shows.

    ``controls`` are those acted on; ``as_found`` were only looked at, and do not hold; ``slo`` are those whose id
    begins with ``slo`` or that drew a latency exhibit: they have their own section and stand in no chapter. ``titles``
    names every chapter, also one that is not shown because all it holds is in ``slo``.
    """

    totals: Totals
    controls: tuple[ControlResult, ...]
    as_found: tuple[ControlResult, ...]
    slo: tuple[ControlResult, ...]
    chapters: tuple[Chapter, ...]
    titles: Mapping[str, str]
    origin: Origin
    integrity: Integrity
