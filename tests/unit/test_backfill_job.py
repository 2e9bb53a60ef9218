"""A backfill's file, its digest, and the pace of its batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbsec.backfill import Job
from dbsec.backfill.windows import Pace
from dbsec.errors import ConfigError, NewerFormat

DEPLOYED = Path(__file__).parents[2] / "db/migrations/002_backfill_batched.toml"
GOOD = 'format = 1\ntable = "app.users"\nkey = "id"\nset = "a = 1"\n'


def job(**changes: Any) -> Job:
    return Job(**{"name": "j", "table": "app.users", "key": ("id",), "set": "a = 1", **changes})


def loaded(tmp_path: Path, text: str) -> Job:
    file = tmp_path / "004_job.toml"
    file.write_text(text)
    return Job.load(file)


def test_the_file_of_the_reference_deployment():
    found = Job.load(DEPLOYED)
    assert (found.name, found.qualified, found.key) == ("002_backfill_batched", ("app", "users"), ("id",))
    assert (found.set, found.where) == ("email_normalized = lower(btrim(email))", "email_normalized IS NULL")
    assert (found.batch_rows, found.bounds) == (1000, (50, 10000))


@pytest.mark.parametrize(
    ("line", "said", "hint"),
    [
        ("keys = 1", "004_job.toml: 'keys' is no key of a backfill", "did you mean 'key'?"),
        ("zzz = 1", "'zzz' is no key of a backfill", "keys are table, key, set"),
        ("name = 'x'", "'name' is no key", "keys are"),
        ("batch_rows = '5'", "'batch_rows' is a whole number", ""),
        ("batch_rows = true", "'batch_rows' is a whole number", ""),
        ("batch_rows = 0", "'batch_rows'", ""),
        ("batch_rows_min = 2000", "'batch_rows': 2000 <= 1000 <= 10000 must hold", ""),
        ("where = 1", "'where' is text", ""),
        ("where = ' '", "'where' is empty", ""),
        ("columns = ['b']", "'columns' are what a python function reads", ""),
        ("search_path = [1]", "'search_path' is a list of names", ""),
        ("python = 'm:f'", "one of 'set' and 'python'", ""),
        ("x = [", "is not TOML", ""),
    ],
)
def test_a_wrong_file_is_told_with_its_key(line, said, hint, tmp_path):
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, GOOD + line)
    assert said in refused.value.message
    assert str(tmp_path) in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"table": "users"}, "'users' does not name its schema"),
        ({"table": "a.b.c"}, "does not name its schema"),
        ({"table": "app users.x"}, "is no name in SQL"),
        ({"table": 'app."open'}, "is no name in SQL"),
        ({"table": "app."}, "is no name in SQL"),
        ({"key": ()}, "'key' names the columns"),
        ({"key": ("id", "ID")}, "each once"),
        ({"key": ("a.b",)}, "'a.b' is no column"),
        ({"set": None}, "one of 'set' and 'python'"),
        ({"set": None, "python": "m.f"}, "is not module:function"),
        ({"name": " "}, "has a name"),
    ],
)
def test_a_wrong_job_is_refused_in_code_too(changes, said):
    with pytest.raises(ConfigError, match=said):
        job(**changes)


@pytest.mark.parametrize("missing", ["table", "key", "format"])
def test_what_is_missing_is_named(missing, tmp_path):
    text = "".join(line + "\n" for line in GOOD.splitlines() if not line.startswith(missing))
    with pytest.raises(ConfigError, match=f"'{missing}' is missing"):
        loaded(tmp_path, text)


def test_a_file_of_a_newer_dbsec_and_one_that_is_not_there(tmp_path):
    with pytest.raises(NewerFormat):
        loaded(tmp_path, GOOD.replace("format = 1", "format = 2"))
    with pytest.raises(ConfigError, match="cannot read"):
        Job.load(tmp_path / "nope.toml")


def test_names_are_spelled_as_in_sql():
    found = job(table='App."Mixed ""Case"""', key=("ID", '"Id"', "größe"))
    assert found.qualified == ("app", 'Mixed "Case"')
    assert found.key_names == ("id", "Id", "größe")


def test_the_digest_is_of_what_is_done_to_a_row():
    same = job(name="other", batch_rows=7, batch_ms=1)
    assert same.digest == job().digest
    changes: list[dict[str, Any]] = [
        *(
            {"table": "app.orders"},
            {"key": ("id", "b")},
            {"set": "a = 2"},
            {"where": "a = 1"},
            {"search_path": ("app",)},
        ),
        *({"set": None, "python": "m:f"}, {"set": None, "python": "m:f", "columns": ("b",)}),
        {"set": None, "python": loaded},
    ]
    assert len({job(**change).digest for change in changes} | {job().digest}) == len(changes) + 1
    assert job(set=None, python=loaded).definition["python"].endswith(":loaded")


def test_a_batch_grows_to_its_time_and_no_faster_than_twice():
    pace = Pace(100, (10, 1000), 0.2)
    pace.took(0.01, 100)
    assert pace.rows == 200
    pace.took(0.1, 50)  # the rest of a range says nothing
    assert pace.rows == 200
    pace.took(0.4, 50)  # but that it was slow does
    assert pace.rows == 100
    pace.took(100, 100)
    assert pace.rows == 25
    pace.conflicted()
    assert pace.rows == 12


@given(st.lists(st.one_of(st.none(), st.tuples(st.floats(0, 1e6), st.integers(0, 10**6)))), st.integers(1, 50))
def test_a_pace_stays_within_its_bounds(turns, least):
    pace = Pace(least, (least, 50), 0.2)
    for turn in turns:
        if turn is None:
            pace.conflicted()
        else:
            pace.took(*turn)
        assert least <= pace.rows <= 50
