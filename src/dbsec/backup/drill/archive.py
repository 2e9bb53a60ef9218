"""What a rehearsal asks of a repository, whoever made its backups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from dbsec.backup.drill.clone import Source
from dbsec.backup.drill.scenarios import Scenario
from dbsec.backup.restoring import Target
from dbsec.pg.lsn import Lsn


@dataclass(frozen=True, slots=True)
class Point:
    """A position in the WAL of a timeline, and ``clock.monotonic()`` when it was there."""

    timeline: int
    lsn: Lsn
    created: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The backup that a scenario starts from, of the cluster ``system``; ``facts`` go into its evidence."""

    backup: str
    server_version: str
    system: int
    facts: Mapping[str, Any] = field(default_factory=dict)


class Archive(Protocol):
    """Base backups and WAL of one cluster."""

    def choose(self, scenario: Scenario) -> Choice:
        """Choose the newest backup of the kind. Errors: ``DoesNotApply``, ``NotRecoverable``."""

    def watched(self) -> Callable[[Point], bool]:
        """Return what tells, by the repository's own word, whether WAL has come up to a point; asked often."""

    def source(self, choice: Choice, target: Target) -> Source:
        """Return what fills a clone's folder."""

    def leave(self, now: datetime, told: Mapping[str, Any]) -> str:
        """Keep a proof beside the backups and return its name, "" where there is no place for it."""
