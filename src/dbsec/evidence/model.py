"""The words of the evidence: outcome, phase, control, drill, observation, and who ran it."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from dbsec import __version__, canonical


class Outcome(StrEnum):
    """The verdict on a control, never on the attack: a successful attack is FAIL."""

    PASS = "pass"
    FAIL = "fail"
    ERROR = "error"
    SKIP = "skip"


class Phase(StrEnum):
    """When a line was written: of the system as found, before the control, after it, or during the whole chapter."""

    BASELINE = "baseline"
    BEFORE = "before"
    AFTER = "after"
    DURING = "during"


@dataclass(frozen=True, slots=True)
class Control:
    """What must hold. ``risk`` is what happens where it does not; ``refs`` name OWASP, CIS or NIST items."""

    id: str
    title: str
    risk: str
    refs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """What a drill saw: the verdict, one sentence, and the facts that prove it (JSON values, no secret).

    ``exhibits`` are what the report shows beside it; shapes in ``dbsec.report.exhibits``.
    """

    outcome: Outcome
    summary: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    exhibits: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Drill:
    """One attack or rehearsal on one control. ``attack`` returns what it saw; what it raises becomes ERROR."""

    control: Control
    name: str
    attack: Callable[[], Observation]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who ran this, where, with which dbsec, against what, under which configuration and ticket."""

    actor: str
    host: str
    dbsec: str = __version__
    revision: str = ""
    config_digest: str = ""
    ticket: str = ""
    target: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def here(cls, *, revision: str = "", config: object = None, ticket: str = "") -> Provenance:
        """Describe this process; ``config`` is digested, never stored."""
        digest = hashlib.sha256(canonical.json_bytes(config)).hexdigest() if config is not None else ""
        return cls(_actor(), socket.gethostname(), __version__, revision, digest, ticket)


def _actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid:{os.geteuid()}"


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Fold outcomes: FAIL beats ERROR beats PASS; SKIP where nothing else is there."""
    seen = set(outcomes)
    for outcome in (Outcome.FAIL, Outcome.ERROR, Outcome.PASS):
        if outcome in seen:
            return outcome
    return Outcome.SKIP
