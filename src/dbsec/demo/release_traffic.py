"""The requests while a release changes: which release gets how many, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dbsec import retry
from dbsec.clock import SYSTEM
from dbsec.demo.release_exhibits import Steps
from dbsec.lab.load import Load, Sample
from dbsec.progress import Progress

_SERVED_S = 1.2  # how long each split of the traffic is watched


@dataclass
class ReleaseTraffic:
    """One load on two releases. ``marks`` are the steps as they began, for the plot."""

    load: Load
    progress: Progress
    blue: str
    green: str = ""
    marks: list[tuple[str, datetime]] = field(default_factory=list)

    def mark(self, label: str) -> None:
        """Begin a step."""
        self.progress.step(label)
        self.marks.append((label, SYSTEM.now()))

    def route(self, percent: int) -> None:
        """Send this share to green, the rest to blue."""
        shares = {self.green: percent, self.blue: 100 - percent}
        self.load.route({url: share for url, share in shares.items() if share})

    def serve(self) -> list[Sample]:
        """Let requests come for a while, and return those that were due in it and are answered."""
        began = SYSTEM.now()
        SYSTEM.sleep(_SERVED_S)
        ended = SYSTEM.now()
        found: list[Sample] = []

        def answered() -> bool:
            found[:] = [one for one in self.load.samples() if one.at >= began]
            return any(one.at >= ended for one in found)

        retry.wait_until(answered, within_s=20, every_s=0.1, what="the requests of this step to be answered")
        return [one for one in found if one.at < ended]

    def to_green(self, samples: Sequence[Sample]) -> int:
        """Count those that green was asked for."""
        return sum(sample.to == self.green for sample in samples)

    def steps(self) -> Steps:
        """Return all requests from the first step to now."""
        began, end = self.marks[0][1], SYSTEM.now()
        return Steps([one for one in self.load.samples() if began <= one.at < end], self.marks, end, self.green)
