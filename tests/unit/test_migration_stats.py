"""Sizes and rates: what is written comes back, what is damaged is refused, and seconds follow from the work."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from dbsec.errors import ConfigError, NewerFormat
from dbsec.migrations import stats
from dbsec.migrations.effects.model import Work
from dbsec.migrations.names import Name
from dbsec.migrations.stats import Rates, Stats, TableStats

USERS, LOGS = Name("app", "users"), Name("app", "Odd Logs")
RATES = Rates(rewrite_bytes=100, scan_bytes=200, fk_rows=10, build_rows=20, index_bytes=50, write_rows=5)
TAKEN = Stats(
    {USERS: TableStats(1_200_000, 118 << 20, 64 << 20, 350.0, 12.5), LOGS: TableStats(10_000, 1 << 20)},
    taken_at="2026-11-23T10:00:00.000000Z",
    source="shop at db:5432",
    major=17,
    interval_s=10.0,
)


def test_what_is_written_comes_back(tmp_path):
    (tmp_path / "stats.json").write_text(TAKEN.dump())
    assert Stats.load(tmp_path / "stats.json") == TAKEN
    assert json.loads(TAKEN.dump())["magic"] == "dbsec-stats"


def test_seconds_follow_from_the_rates():
    of = Stats({USERS: TableStats(100, 1000, 500)}, rates=RATES)
    assert {work: of.seconds(work, USERS) for work in Work} == {
        Work.REWRITE: 20.0, Work.SCAN: 5.0, Work.FK_SCAN: 10.0, Work.BUILD: 5.0, Work.WRITE: 20.0,
    }  # fmt: skip
    assert of.seconds(Work.SCAN, LOGS) is None


def test_each_rate_is_measured_by_the_benchmark():
    source = (Path(__file__).parents[2] / "benchmarks/blocking.py").read_text()
    assert [rate.name for rate in fields(Rates) if f'"{rate.name}": ' not in source] == []


def test_a_table_is_found_with_and_without_its_schema():
    assert TAKEN.of(Name(None, "users")) is TAKEN.of(USERS)
    assert TAKEN.of(Name("public", "users")) is None
    twice = Stats({USERS: TableStats(1, 1), Name("old", "users"): TableStats(1, 1)})
    assert twice.of(Name(None, "users")) is None


def test_what_is_told():
    assert TAKEN.told(USERS, [Work.REWRITE]) == "app.users: about 2 s, 1.2 M rows, 118 MiB, 350 writes/s"
    assert TAKEN.told(LOGS, []) == 'app."Odd Logs": 10 k rows, 1.0 MiB'
    assert TAKEN.told(Name("app", "none"), [Work.SCAN]) == ""


@pytest.mark.parametrize(
    ("rows", "size", "tiny"), [(10_000, 1 << 20, True), (10_001, 1, False), (1, (1 << 20) + 1, False), (0, 0, True)]
)
def test_tiny_is_few_rows_and_few_bytes(rows, size, tiny):
    assert TableStats(rows, size).tiny is tiny


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "less than 1 s"), (4.4, "4 s"), (119, "119 s"), (120, "2 min"), (3600, "60 min"), (7200, "2 h")],
)
def test_durations(seconds, said):
    assert stats.duration(seconds) == said


def test_numbers_and_amounts():
    assert [stats.number(n) for n in (0, 2.25, 350, 9999, 12_345, 1.2e6, 34e6, 5e9)] == [
        "0", "2.2", "350", "9999", "12 k", "1.2 M", "34 M", "5.0 G",
    ]  # fmt: skip
    assert [stats.amount(n) for n in (0, 8192, 1 << 20, 118 << 20, 4 << 30, 2 << 40)] == [
        "0 KiB", "8 KiB", "1.0 MiB", "118 MiB", "4.0 GiB", "2.0 TiB",
    ]  # fmt: skip


def _damaged():
    whole = json.loads(TAKEN.dump())
    yield ""
    yield "[]"
    yield "{}"
    yield json.dumps({**whole, "tables": None})
    yield json.dumps({**whole, "tables": [{"schema": "a"}]})
    yield json.dumps({**whole, "tables": [{"schema": "a", "name": "b", "rows": "many", "bytes": 1}]})
    yield json.dumps({**whole, "tables": [{"schema": "a", "name": "b", "rows": -1, "bytes": 1}]})
    yield json.dumps({**whole, "rates": {"scan_bytes": 0}})
    yield json.dumps({**whole, "rates": {"speed": 1}})
    yield json.dumps({**whole, "rates": [1]})


@pytest.mark.parametrize("text", list(_damaged()))
def test_a_damaged_file_is_refused(tmp_path, text):
    (tmp_path / "stats.json").write_text(text)
    with pytest.raises(ConfigError) as refused:
        Stats.load(tmp_path / "stats.json")
    assert "migrate snapshot" in refused.value.hint


def test_a_newer_and_an_absent_file_are_refused(tmp_path):
    (tmp_path / "stats.json").write_text(json.dumps({"magic": "dbsec-stats", "version": 2, "tables": []}))
    with pytest.raises(NewerFormat):
        Stats.load(tmp_path / "stats.json")
    with pytest.raises(ConfigError, match="cannot read"):
        Stats.load(tmp_path / "absent.json")
