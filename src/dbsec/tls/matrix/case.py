"""One case of the matrix, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from dbsec.evidence import Control, Observation, Outcome


class Need(StrEnum):
    """What a case cannot do without; it is skipped, and says so."""

    AUTHORITY = "the key of the CA (--ca)"
    MTLS = "a login that needs a client certificate (--mtls)"
    ADMIN = "a superuser (--admin)"
    SERVER = "the server's files (--data-dir)"
    LOG = "the server's log (--log)"
    POOLER = "PgBouncer's file and console (--ini, --console)"
    REVOKED = "a client certificate that the server's list has (--revoked)"
    BINDING = "channel binding, which PgBouncer does not offer"
    LIST = "a revocation list, which PgBouncer does not read"


class Ground(Protocol):
    """What a matrix is run against."""

    @property
    def offers(self) -> frozenset[Need]:
        """Name what is at hand."""
        ...


G = TypeVar("G", bound=Ground)


class Reason(NamedTuple):
    """Why something was refused, as a machine says it."""

    kind: str  # verify code, alert, sqlstate, log, answer
    value: str

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an attack came to. ``reasons``: all that were seen; ``facts``: JSON values, no secret of the site's."""

    refused: bool
    reasons: frozenset[Reason] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case(Generic[G]):
    """``good`` is the login that must succeed before and after (None: it does, else why not); ``expected``: reasons of
    which all must be seen, by what the bench can see; ``weaken`` yields a bench without the control.
    """

    name: str
    control: Control
    title: str
    attempt: Callable[[G], Attempt]
    good: Callable[[G], str | None]
    expected: Callable[[G], tuple[Reason, ...]]
    needs: frozenset[Need] = frozenset()
    weaken: Callable[[G], AbstractContextManager[G]] | None = None
    weaken_needs: frozenset[Need] = frozenset()


def run(case: Case[G], bench: G) -> Observation:
    """Attack, between two logins that must succeed. FAIL: it was let in; ERROR: refused, but it proves nothing."""
    if missing := _missing(case.needs, bench):
        return Observation(Outcome.SKIP, f"needs {missing}", {"case": case.name})
    before = case.good(bench)
    if before is not None:
        facts = {"case": case.name, "good_login": before}
        return Observation(Outcome.ERROR, "the login that must succeed does not: a refusal would prove nothing", facts)
    attempt = case.attempt(bench)
    after = case.good(bench)
    expected = case.expected(bench)
    seen = {
        "case": case.name,
        "expected": [str(one) for one in expected],
        "seen": sorted(str(one) for one in attempt.reasons),
        "good_login_before": "logged in",
        "good_login_after": after or "logged in",
        **attempt.facts,
    }
    if not attempt.refused:
        return Observation(Outcome.FAIL, f"let in: {case.title}", seen)
    if after is not None:
        return Observation(Outcome.ERROR, "refused, and so is the login that must succeed", seen)
    if not set(expected) <= attempt.reasons:
        return Observation(Outcome.ERROR, f"refused for another reason than {', '.join(map(str, expected))}", seen)
    return Observation(Outcome.PASS, f"refused by {', '.join(map(str, expected))}: {case.title}", seen)


def mutate(case: Case[G], bench: G) -> Observation:
    """Take the control away and attack again: PASS where the case goes red, so that its green says something."""
    assert case.weaken is not None
    if missing := _missing(case.needs | case.weaken_needs, bench):
        return Observation(Outcome.SKIP, f"needs {missing}", {"case": case.name})
    with case.weaken(bench) as weak:
        seen = run(case, weak)
    facts = {"without_control": str(seen.outcome), **seen.facts}
    if seen.outcome is Outcome.SKIP:
        return Observation(Outcome.SKIP, seen.summary, facts)
    if seen.outcome is Outcome.FAIL:
        return Observation(Outcome.PASS, f"goes red without its control: {case.title}", facts)
    return Observation(Outcome.FAIL, f"stays {seen.outcome} without its control: {seen.summary}", facts)


def _missing(needs: frozenset[Need], bench: Ground) -> str:
    return ", ".join(str(need) for need in Need if need in needs - bench.offers)
