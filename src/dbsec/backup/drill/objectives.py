"""What a drill has measured, beside what ``[objectives]`` allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dbsec.backup.drill.clone import Cloned
from dbsec.config import Objectives
from dbsec.evidence import Outcome

_MOST_TOLD = 3


@dataclass(frozen=True, slots=True)
class Arrival:
    """When the repository held the witness.

    ``rpo_s``: the loss is simulated at the worst moment for the witness, the instant before the repository has
    acknowledged its LSN. What is then recoverable ends where the witness begins, so this is the age that its last
    commit had reached: from the restore point to the repository's own word, by one monotonic clock.
    ``forced``: it had not come within the objective, and a segment was switched so that the rest could be proven; the
    RPO is then at least ``rpo_s``.
    """

    rpo_s: float
    forced: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome and why, in the order of weight."""

    outcome: Outcome
    reasons: tuple[str, ...]


def judge(cloned: Cloned, arrival: Arrival, objectives: Objectives) -> Verdict:
    """Judge a clone: beyond RPO or RTO, or by one value another than its witness, is FAIL.

    What could not be examined is ERROR, where nothing has failed.
    """
    failures = list(_failures(cloned, arrival, objectives))
    if failures:
        return Verdict(Outcome.FAIL, (*failures, *cloned.unknown))
    if cloned.unknown:
        return Verdict(Outcome.ERROR, cloned.unknown)
    return Verdict(Outcome.PASS, ())


def _failures(cloned: Cloned, arrival: Arrival, objectives: Objectives) -> Iterator[str]:
    differences = cloned.comparison.differences
    yield from differences[:_MOST_TOLD]
    if (more := len(differences) - _MOST_TOLD) > 0:
        yield f"{more} more differences"
    yield from (f"amcheck: {said}" for said in cloned.corruption[:_MOST_TOLD])
    if cloned.smoke:
        yield f"the service's smoke test failed: {cloned.smoke}"
    if arrival.forced or arrival.rpo_s > objectives.rpo_s:
        least = "at least " if arrival.forced else ""
        yield f"RPO {least}{arrival.rpo_s:.1f} s, beyond {objectives.rpo_s:g} s"
    if cloned.rto_s > objectives.rto_s:
        yield f"RTO {cloned.rto_s:.1f} s, beyond {objectives.rto_s:g} s"
