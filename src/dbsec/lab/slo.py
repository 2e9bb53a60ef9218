"""Judge a load's samples against the objectives of the service, and fold them for a plot.

Percentiles are nearest-rank: the smallest sample that at least that share of the samples does not exceed, so each
figure is a latency that a caller really waited. Latency counts from the moment when a request was due, also for one
that failed; a request that could not be sent at all has no latency, and counts as failed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from dbsec.errors import UsageError

MAX_BUCKETS = 600


class Timed(Protocol):
    """What is needed of a sample."""

    @property
    def at(self) -> datetime: ...
    @property
    def latency_ms(self) -> float | None: ...
    @property
    def failed(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Slo:
    """What is promised: the least share of requests that succeed (0 to 1), and the 99th percentile in milliseconds."""

    availability: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class SloVerdict:
    """What was measured. No request at all is not ``met``: silence proves nothing."""

    requests: int
    failed: int
    availability: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    met: bool


@dataclass(frozen=True, slots=True)
class Buckets:
    """Arrays of one length: entry ``i`` is ``start_s[i]`` to ``start_s[i] + bucket_s`` seconds after ``t0``.

    Latencies are None where nothing was answered.
    """

    t0: datetime
    bucket_s: float
    start_s: list[float]
    requests: list[int]
    failed: list[int]
    p50_ms: list[float | None]
    p99_ms: list[float | None]
    max_ms: list[float | None]


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of ascending values; ``share`` is above 0 and at most 1."""
    if not ordered or not 0 < share <= 1:
        raise UsageError(f"no percentile {share:g} of {len(ordered)} values")
    # 0.07 * 100 is 7.000000000000001 in floats: without rounding, the ceiling would be one rank too high
    return ordered[math.ceil(round(share * len(ordered), 9)) - 1]


def judge(samples: Iterable[Timed], slo: Slo, start: datetime, end: datetime) -> SloVerdict:
    """Judge the requests that were due from ``start`` to just before ``end``; where none was, the figures are 0."""
    window = [sample for sample in samples if start <= sample.at < end]
    failed = sum(sample.failed for sample in window)
    waits = _waits(window)
    availability = 1 - failed / len(window) if window else 0.0
    p50, p99, worst = (percentile(waits, share) if waits else 0.0 for share in (0.50, 0.99, 1.0))
    met = bool(waits) and availability >= slo.availability and p99 <= slo.p99_ms
    return SloVerdict(len(window), failed, availability, p50, p99, worst, met)


def buckets(samples: Iterable[Timed], t0: datetime, bucket_s: float) -> Buckets:
    """Fold the samples from ``t0`` on into equal slices of time.

    Where that gives more than 600, slices are made longer by a whole factor: none is left out, so no stall is lost.
    """
    if bucket_s <= 0:
        raise UsageError(f"a bucket lasts {bucket_s:g} s: it must be above 0")
    offsets = [((sample.at - t0) / timedelta(seconds=bucket_s), sample) for sample in samples if sample.at >= t0]
    slices = math.floor(max((offset for offset, _ in offsets), default=-1)) + 1
    factor = max(1, math.ceil(slices / MAX_BUCKETS))
    folded: list[list[Timed]] = [[] for _ in range(math.ceil(slices / factor))]
    for offset, sample in offsets:
        folded[math.floor(offset) // factor].append(sample)
    waits = [_waits(bucket) for bucket in folded]
    return Buckets(
        t0=t0,
        bucket_s=bucket_s * factor,
        start_s=[i * bucket_s * factor for i in range(len(folded))],
        requests=[len(bucket) for bucket in folded],
        failed=[sum(sample.failed for sample in bucket) for bucket in folded],
        p50_ms=[percentile(w, 0.50) if w else None for w in waits],
        p99_ms=[percentile(w, 0.99) if w else None for w in waits],
        max_ms=[w[-1] if w else None for w in waits],
    )


def _waits(samples: Iterable[Timed]) -> list[float]:
    return sorted(sample.latency_ms for sample in samples if sample.latency_ms is not None)
