"""The small parts of the ground: retry, clock, canonical bytes, discovery, progress."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta, timezone
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbsec import canonical, clock, discovery, progress, retry
from dbsec.errors import GaveUp, reason


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self):
        self.passed = 0.0
        self.pauses = []

    def now(self):
        return datetime(2026, 11, 23, tzinfo=UTC) + timedelta(seconds=self.passed)

    def monotonic(self):
        return self.passed

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.passed += seconds


def failing(times, error=ConnectionError):
    left = [error(f"try {n}") for n in range(1, times + 1)]

    def act():
        if left:
            raise left.pop(0)
        return "done"

    return act


def test_it_tries_again_with_growing_pauses():
    time = Clock()
    act = failing(8)
    assert retry.retry(act, on=(ConnectionError,), within_s=60, what="the call", clock=time) == "done"
    ceilings = [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert all(ceiling / 2 <= pause <= ceiling for pause, ceiling in zip(time.pauses, ceilings, strict=True))


def test_it_gives_up_after_its_time_with_the_last_failure():
    time = Clock()
    with pytest.raises(GaveUp, match=r"the call did not succeed within 3 s: try \d+") as gave_up:
        retry.retry(failing(1000), on=(ConnectionError,), within_s=3, what="the call", clock=time)
    assert 3 <= time.passed < 5
    assert isinstance(gave_up.value.__cause__, ConnectionError)


def test_other_errors_end_it_at_once():
    time = Clock()
    with pytest.raises(ValueError, match="try 1"):
        retry.retry(failing(3, ValueError), on=(ConnectionError,), within_s=60, what="the call", clock=time)
    assert time.pauses == []


def test_no_time_means_one_try():
    time = Clock()
    assert retry.retry(failing(0), on=(ConnectionError,), within_s=0, what="the call", clock=time) == "done"
    with pytest.raises(GaveUp):
        retry.retry(failing(1), on=(ConnectionError,), within_s=0, what="the call", clock=time)


def test_waiting_tells_how_long_it_took():
    time = Clock()
    assert retry.wait_until(lambda: time.passed > 1, within_s=5, what="an hour", every_s=0.5, clock=time) == 1.5
    with pytest.raises(GaveUp, match="waited 5 s for an hour"):
        retry.wait_until(lambda: False, within_s=5, what="an hour", every_s=0.5, clock=time)


@given(st.datetimes(min_value=datetime(1000, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.timezones()))
def test_moments_sort_as_text(moment):
    text = clock.rfc3339(moment)
    assert len(text) == len("2026-11-23T10:00:00.000000Z")
    assert datetime.fromisoformat(text) == moment.astimezone(UTC)


def test_a_moment_in_another_zone_is_written_in_utc():
    east = timezone(timedelta(hours=5, minutes=30))
    assert clock.rfc3339(datetime(2026, 11, 23, 1, 0, tzinfo=east)) == "2026-11-22T19:30:00.000000Z"


def test_the_machines_clock_is_aware_and_runs_forward():
    before = clock.SYSTEM.monotonic()
    clock.SYSTEM.sleep(0.001)
    assert clock.SYSTEM.monotonic() > before
    assert clock.SYSTEM.now().utcoffset() == timedelta()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(values)
def test_json_comes_back_and_is_written_one_way(value):
    text = canonical.json_bytes(value)
    assert json.loads(text) == value
    assert canonical.json_bytes(json.loads(text)) == text


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_count(value):
    assert canonical.json_bytes(value) == canonical.json_bytes(dict(reversed(value.items())))


def test_a_value_is_as_its_reader_gets_it():
    assert canonical.as_read({2: (1, 2), "10": None}) == {"2": [1, 2], "10": None}


@pytest.mark.parametrize("value", [float("nan"), "\udcff", {1, 2}])
def test_what_no_reader_gets_is_refused(value):
    with pytest.raises((ValueError, TypeError)):
        canonical.as_read(value)


def test_the_reason_is_one_line_and_never_empty():
    assert reason(ValueError("first\nsecond")) == "first"
    assert reason(KeyboardInterrupt()) == "KeyboardInterrupt"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_what_json_cannot_say_is_refused(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical.json_bytes(value)


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_no_two_lists_of_parts_give_the_same_bytes(one, other):
    assert (canonical.length_prefixed(one) == canonical.length_prefixed(other)) == (one == other)


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "found_by_test"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name, text in {"b": "RULE = 2", "a": "RULE = 1", "_hidden": "RULE = 3", "other": "x = 1"}.items():
        (folder / f"{name}.py").write_text(text)
    made = ModuleType("found_by_test")
    made.__path__ = [str(folder)]
    monkeypatch.syspath_prepend(str(tmp_path))
    return made


def test_discovery_names_without_importing(package, tmp_path):
    (tmp_path / "found_by_test" / "breaks.py").write_text("raise RuntimeError")
    assert discovery.names_in(package) == ["a", "b", "breaks", "other"]


def test_discovery_returns_constants_by_module(package):
    assert discovery.constants_in(package, "RULE") == {"a": 1, "b": 2}


def test_plain_lines_show_every_step_and_few_counts():
    time, stream = Clock(), io.StringIO()
    lines = progress.Lines(stream, time)
    lines.step("copying")
    for n in range(1, 81):
        time.sleep(0.125)
        lines.count("rows", n * 1000, 80_000)
    assert stream.getvalue().splitlines() == [
        "    0.0s  copying",
        "    2.0s  rows 16,000/80,000, 8 s left",
        "    4.0s  rows 32,000/80,000, 6 s left",
        "    6.0s  rows 48,000/80,000, 4 s left",
        "    8.0s  rows 64,000/80,000, 2 s left",
        "   10.0s  rows 80,000/80,000",
    ]
