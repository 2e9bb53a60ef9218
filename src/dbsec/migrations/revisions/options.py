"""How Alembic's runs are guarded, and where that is told: in Alembic's own log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dbsec.clock import SYSTEM, Clock
from dbsec.findings import Severity
from dbsec.migrations.runner.blockers import Blocker
from dbsec.migrations.runner.limits import Limits
from dbsec.progress import Progress

LOG = logging.getLogger("alembic.dbsec")


class _Logged:
    """Progress as log lines of Alembic's own logger."""

    def step(self, text: str) -> None:
        LOG.info("%s", text)

    def count(self, text: str, done: int, total: int) -> None:
        LOG.debug("%s %d/%d", text, done, total)


class _Warned:
    """Names who is waited for, each time that it is somebody else."""

    def __init__(self) -> None:
        self._last: set[tuple[int | None, str]] = set()

    def __call__(self, found: Sequence[Blocker]) -> None:
        now = {(one.pid, one.gid) for one in found}
        for one in found if now != self._last else ():
            LOG.warning("waits, with nobody behind it, for %s; to end that: %s", one, one.end_it)
        self._last = now


@dataclass(frozen=True, slots=True)
class Options:
    """``lint``: the lowest severity that refuses a run; None lints nothing. ``waivers``: their file, "" for the usual.

    ``all_linted``: refuse also what the linter cannot read, such as a revision that asks the database.
    ``wait_s``: for another upgrade or runner to end. ``told`` is called with those who hold what is waited for.
    """

    limits: Limits = field(default_factory=Limits)
    lint: Severity | None = Severity.ERROR
    waivers: str = ""
    all_linted: bool = False
    wait_s: float = 600.0
    told: Callable[[Sequence[Blocker]], None] = field(default_factory=_Warned)
    progress: Progress = field(default_factory=_Logged)
    clock: Clock = SYSTEM
