"""Exhibits: each type draws its shape, and no shape at all can break a report."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from tests.unit import report_sample

from dbsec.report import exhibits, layered, svg

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
SAMPLES: dict[str, dict[str, Any]] = {
    "latency": report_sample.latency(),
    "graph": report_sample.role_graph(),
    "timeline": report_sample.timeline(),
    "text": report_sample.LOG,
    "table": report_sample.GRANTS,
}


def test_every_file_of_the_folder_is_sampled() -> None:
    assert set(exhibits.known()) == set(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_drawn_and_not_shown_plain(name: str) -> None:
    shape = SAMPLES[name]
    assert exhibits.html(shape) == exhibits.known()[name].html(shape)
    assert exhibits.markdown(shape) == exhibits.known()[name].markdown(shape)


def test_an_unknown_type_is_a_table_of_its_keys() -> None:
    shown = exhibits.html(report_sample.UNKNOWN)
    assert "hologram" in shown
    assert "[{&#34;z&#34;: 1}, {&#34;z&#34;: 2}]" in shown
    assert "| depth | 3 |" in exhibits.markdown(report_sample.UNKNOWN)


@pytest.mark.parametrize("name", SAMPLES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_shape_raises(name: str, data: st.DataObject) -> None:
    shape = dict(SAMPLES[name])
    for key in data.draw(st.sets(st.sampled_from(sorted(set(shape) - {"type"})), min_size=1)):
        shape[key] = data.draw(JSON, label=key)
    assert isinstance(exhibits.html(shape), Markup)
    assert isinstance(exhibits.markdown(shape), str)


@pytest.mark.parametrize("name", SAMPLES)
def test_hostile_text_makes_no_element(name: str) -> None:
    hostile = report_sample.hostile_shape(SAMPLES[name], "<b onload=x>")
    assert "<b" not in exhibits.html({**hostile, "type": name})
    if name != "text":  # which is verbatim in its fence
        assert "<b" not in exhibits.markdown({**hostile, "type": name})


def test_latency_counts_by_phase_and_marks_what_failed() -> None:
    drawn, table = exhibits.html(SAMPLES["latency"]), exhibits.markdown(SAMPLES["latency"])
    assert "3 failed" in drawn
    assert drawn.count("l7 7m0 -7l-7 7") == 2, "two seconds in which requests failed"
    assert "| transit: apply | 8.0 | 1,407 | 3 |" in table
    assert "| whole run | 140.0 | 27,854 | 3 |" in table
    assert "objective: p99 250 ms" in drawn
    assert "27,854 requests, 3 failed" in drawn.partition("aria-label=")[2]


def test_a_second_without_answers_is_a_gap_in_the_line() -> None:
    line = svg.polyline([(0, 1.0), (1, 2.0), (2, None), (3, 4.0)])
    assert line == "M0.0 1.0h.1L1.0 2.0M3.0 4.0h.1"


def test_long_runs_are_thinned_and_lose_no_failure() -> None:
    shape = report_sample.latency(5000)
    drawn = exhibits.html(shape)
    assert len(drawn) < 120_000
    assert "3 failed" in drawn
    assert svg.milliseconds(max(v for v in shape["p99_ms"] if v is not None)) in drawn


@pytest.mark.parametrize("bucket_s", [0.5, 10.0])
def test_phases_are_in_seconds_whatever_the_bucket(bucket_s: float) -> None:
    n = 20
    lists = {k: [5] * n for k in ("requests", "failed", "p50_ms", "p99_ms", "max_ms")}
    half = n * bucket_s / 2
    bands = [{"label": "a", "from_s": 0, "to_s": half}, {"label": "b", "from_s": half, "to_s": 2 * half}]
    shape = {"type": "latency", "title": "t", "bucket_s": bucket_s, **lists, "bands": bands, "slo_p99_ms": None}
    rows = exhibits.markdown(shape).splitlines()
    assert rows[2].startswith(f"| a | {half:.1f} | 50 |")
    assert rows[3].startswith(f"| b | {half:.1f} | 50 |")


NAMES = st.sampled_from("abcdefgh")


@given(st.lists(st.tuples(NAMES, NAMES).filter(lambda e: e[0] != e[1]), max_size=24))
@settings(max_examples=150, deadline=None)
def test_a_layout_runs_left_to_right_and_nothing_overlaps(edges: list[tuple[str, str]]) -> None:
    layout = layered.place(list("abcdefgh"), edges, size=40, gap=16)
    for (a, b), path in zip(edges, layout.paths, strict=True):
        assert layout.rank[a] != layout.rank[b]
        assert {path[0][0], path[-1][0]} == {layout.rank[a], layout.rank[b]}
        assert [c for c, _ in path] == list(range(path[0][0], path[-1][0] + 1)), "one stop in each column"
    for one in "abcdefgh":
        assert 20 - 1e-6 <= layout.y[one] <= layout.height - 20 + 1e-6
        for other in "abcdefgh":
            if one < other and layout.rank[one] == layout.rank[other]:
                assert abs(layout.y[one] - layout.y[other]) >= 40 + 16 - 1e-6


def test_a_chain_without_crossings_is_drawn_without_crossings() -> None:
    nodes = ["a1", "a2", "a3", "b3", "b2", "b1"]
    edges = [("a1", "b1"), ("a2", "b2"), ("a3", "b3")]
    y = layered.place(nodes, edges, size=40, gap=16).y
    assert sorted(["a1", "a2", "a3"], key=y.__getitem__) == [
        "a" + n[1] for n in sorted(["b1", "b2", "b3"], key=y.__getitem__)
    ]


@given(st.lists(st.tuples(st.floats(0, 900), st.floats(1, 200)), max_size=20))
def test_labels_in_one_row_do_not_overlap(items: list[tuple[float, float]]) -> None:
    spans = sorted((start, start + wide) for start, wide in items)
    ends: dict[int, float] = {}
    for (start, end), row in zip(spans, svg.rows_for(spans), strict=True):
        assert start >= ends.get(row, -math.inf)
        ends[row] = end


@given(st.lists(st.floats(0, 200), max_size=8))
def test_labels_at_the_end_of_lines_are_spread(wanted: list[float]) -> None:
    placed = sorted(svg.spread(wanted, 16, 0, 200))
    assert all(b - a >= 16 - 1e-6 for a, b in pairwise(placed))


@given(st.floats(1e-6, 1e9))
def test_ticks_are_few_round_and_within(limit: float) -> None:
    found = svg.ticks(limit)
    assert 3 <= len(found) <= 14
    assert found[0] == 0
    assert found[-1] <= limit * (1 + 1e-6)


@pytest.mark.parametrize(
    ("ms", "said"), [(0.42, "0.4 ms"), (4.24, "4.2 ms"), (142.4, "142 ms"), (1300, "1.3 s"), (43_000, "43 s")]
)
def test_latencies_have_few_digits(ms: float, said: str) -> None:
    assert svg.milliseconds(ms) == said
