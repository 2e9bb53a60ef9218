"""What a latency exhibit holds: buckets of time, and the phases of the run over them. Shape: see ``latency.py``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from dbsec.report.exhibits import Shape

MOST_POINTS = 600
Value = float | None


@dataclass(frozen=True, slots=True)
class Band:
    """A phase of the run, in seconds since its start."""

    label: str
    start: float
    end: float
    kind: str

    @property
    def name(self) -> str:
        """Chapter and phase: the label alone where it says both."""
        return self.label if ":" in self.label or not self.kind else f"{self.label}: {self.kind}"


@dataclass(frozen=True, slots=True)
class Series:
    bucket_s: float
    requests: Sequence[int]
    failed: Sequence[int]
    p50: Sequence[Value]
    p99: Sequence[Value]
    slowest: Sequence[Value]

    @property
    def seconds(self) -> float:
        return len(self.requests) * self.bucket_s

    def between(self, start: float, end: float) -> Series:
        """Cut out the buckets that begin within [start, end)."""
        cut = slice(max(0, math.ceil(start / self.bucket_s - 1e-9)), max(0, math.ceil(end / self.bucket_s - 1e-9)))
        return Series(
            self.bucket_s, self.requests[cut], self.failed[cut], self.p50[cut], self.p99[cut], self.slowest[cut]
        )

    def thinned(self) -> Series:
        """Join buckets until few enough to draw are left: counts add up, latencies keep the worst, p50 the middle."""
        n = math.ceil(len(self.requests) / MOST_POINTS)
        if n <= 1:
            return self
        starts = range(0, len(self.requests), n)
        return Series(
            self.bucket_s * n,
            [sum(self.requests[i : i + n]) for i in starts],
            [sum(self.failed[i : i + n]) for i in starts],
            [fold(median, self.p50[i : i + n]) for i in starts],
            [fold(max, self.p99[i : i + n]) for i in starts],
            [fold(max, self.slowest[i : i + n]) for i in starts],
        )


def fold(how: Callable[[list[float]], float], values: Iterable[Value]) -> Value:
    """Fold what was served; None where nothing was."""
    served = [v for v in values if v is not None]
    return float(how(served)) if served else None


def read(shape: Shape) -> Series:
    """Read the lists. Errors: ``KeyError``, ``TypeError``, ``ValueError`` for another shape."""
    lists = [list(shape[key]) for key in ("requests", "failed", "p50_ms", "p99_ms", "max_ms")]
    if len({len(one) for one in lists}) != 1 or not lists[0] or not float(shape["bucket_s"]) > 0:
        raise ValueError("latency lists differ in length, or are empty")
    counts = [[int(v) for v in one] for one in lists[:2]]
    times = [[None if v is None else float(v) for v in one] for one in lists[2:]]
    return Series(float(shape["bucket_s"]), counts[0], counts[1], *times)


def bands_of(shape: Shape) -> list[Band]:
    """Read the phases in the order of time."""
    found = (
        Band(str(b["label"]), float(b["from_s"]), float(b["to_s"]), str(b.get("kind", ""))) for b in shape["bands"]
    )
    return sorted(found, key=lambda b: b.start)


def runs_of(bands: Sequence[Band]) -> list[Band]:
    """Join neighbours of one chapter, which is the label up to a colon."""
    grouped = [(name, list(group)) for name, group in groupby(bands, key=lambda b: b.label.partition(":")[0])]
    return [Band(name, group[0].start, group[-1].end, "") for name, group in grouped]
