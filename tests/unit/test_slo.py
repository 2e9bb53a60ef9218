"""Percentiles, verdicts and buckets, against figures worked out by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbsec.errors import UsageError
from dbsec.lab import slo
from dbsec.lab.slo import Slo

T0 = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
SLO = Slo(availability=0.99, p99_ms=50)


@dataclass(frozen=True)
class Shot:
    at: datetime
    latency_ms: float | None = 10
    failed: bool = False


def shots(*latencies: float | None, every_s: float = 1.0, failed: frozenset[int] = frozenset()) -> list[Shot]:
    return [Shot(T0 + timedelta(seconds=i * every_s), ms, i in failed) for i, ms in enumerate(latencies)]


HOUR = T0 + timedelta(hours=1)


@pytest.mark.parametrize(
    ("share", "wanted"),
    [(0.05, 15), (0.30, 20), (0.40, 20), (0.41, 35), (0.50, 35), (1.0, 50)],
)
def test_percentile_is_nearest_rank(share: float, wanted: float) -> None:
    assert slo.percentile([15, 20, 35, 40, 50], share) == wanted


def test_a_rank_is_not_lifted_by_the_error_of_a_float() -> None:
    assert 0.07 * 100 > 7
    assert slo.percentile([float(n) for n in range(1, 101)], 0.07) == 7


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 0), ([1.0], 1.01)])
def test_percentile_of_nothing_is_refused(values: list[float], share: float) -> None:
    with pytest.raises(UsageError):
        slo.percentile(values, share)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.001, 1))
def test_percentile_covers_its_share_with_a_real_sample(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = slo.percentile(ordered, share)
    assert found in ordered
    covered = sum(value <= found for value in ordered)
    assert covered >= share * len(ordered) - 1e-6
    assert sum(value < found for value in ordered) < math.ceil(round(share * len(ordered), 9))


def test_a_good_run_meets_its_objectives() -> None:
    verdict = slo.judge(shots(*[10.0] * 199, 49.0), SLO, T0, HOUR)
    assert (verdict.requests, verdict.failed, verdict.availability, verdict.met) == (200, 0, 1.0, True)
    assert (verdict.p50_ms, verdict.p99_ms, verdict.max_ms) == (10, 10, 49)


def test_two_slow_ones_of_a_hundred_break_p99_and_one_does_not() -> None:
    assert slo.judge(shots(*[10.0] * 99, 900.0), SLO, T0, HOUR).met
    assert not slo.judge(shots(*[10.0] * 98, 900.0, 900.0), SLO, T0, HOUR).met


def test_failures_break_availability_even_when_they_are_fast() -> None:
    assert slo.judge(shots(*[1.0] * 100, failed=frozenset({3})), SLO, T0, HOUR).met
    verdict = slo.judge(shots(*[1.0] * 100, failed=frozenset({3, 4})), SLO, T0, HOUR)
    assert (verdict.failed, verdict.availability, verdict.met) == (2, 0.98, False)


def test_a_request_that_was_not_sent_counts_as_failed_without_a_latency() -> None:
    verdict = slo.judge(shots(5.0, None, failed=frozenset({1})), Slo(0.5, 50), T0, HOUR)
    assert (verdict.requests, verdict.failed, verdict.max_ms, verdict.met) == (2, 1, 5.0, True)


def test_silence_is_not_success() -> None:
    verdict = slo.judge([], Slo(0, 1e9), T0, HOUR)
    assert (verdict.requests, verdict.met) == (0, False)


def test_the_window_has_its_start_and_not_its_end() -> None:
    verdict = slo.judge(shots(1, 2, 3, 4), SLO, T0 + timedelta(seconds=1), T0 + timedelta(seconds=3))
    assert (verdict.requests, verdict.max_ms) == (2, 3)


def test_buckets_leave_gaps_open() -> None:
    folded = slo.buckets([*shots(1, 9, every_s=0.5), Shot(T0 + timedelta(seconds=2.5), 7, True)], T0, 1)
    assert folded.start_s == [0, 1, 2]
    assert folded.requests == [2, 0, 1]
    assert folded.failed == [0, 0, 1]
    assert folded.p50_ms == [1, None, 7]
    assert folded.p99_ms == [9, None, 7]
    assert folded.max_ms == [9, None, 7]


def test_what_was_before_t0_is_left_out_and_nothing_gives_nothing() -> None:
    assert slo.buckets(shots(1), T0 + timedelta(seconds=1), 1).start_s == []
    assert slo.buckets([], T0, 1).requests == []


def test_a_bucket_without_length_is_refused() -> None:
    with pytest.raises(UsageError):
        slo.buckets([], T0, 0)


@given(st.lists(st.floats(0, 3000, allow_subnormal=False), min_size=1), st.sampled_from([0.1, 0.5, 1.0, 7.0]))
def test_decimation_loses_no_sample_and_no_stall(offsets: list[float], bucket_s: float) -> None:
    samples = [Shot(T0 + timedelta(seconds=s), latency_ms=s) for s in offsets]
    folded = slo.buckets(samples, T0, bucket_s)
    assert len(folded.start_s) <= slo.MAX_BUCKETS
    assert sum(folded.requests) == len(samples)
    assert max(ms for ms in folded.max_ms if ms is not None) == max(offsets)
    assert {len(x) for x in (folded.requests, folded.failed, folded.p50_ms, folded.p99_ms, folded.max_ms)} == {
        len(folded.start_s)
    }
