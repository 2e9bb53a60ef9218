"""What a verification finds, names and repairs, and what it never shows."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from dbsec import files
from dbsec.backfill import Job
from dbsec.backfill.verification import Mismatch
from dbsec.backfill.verify import remaining, verified, verify
from dbsec.errors import ApplyError, UsageError

MAIN = pytest.mark.pg(15, 17, 18)
SECRET = "Zoe.Secret@example.org"
EMAIL = {"name": "normalize", "table": "app.users", "key": ("id",), "batch_rows": 100}
WALK = {**EMAIL, "set": "normalized = lower(btrim(email))", "where": "normalized IS NULL"}


@pytest.fixture
def users(scene):
    """Users with an address each, one without, and a column that is to be filled."""
    scene.db.execute("CREATE TABLE app.users (id bigint PRIMARY KEY, email text, normalized text, seen int, kind text)")
    scene.db.execute(
        "INSERT INTO app.users SELECT n, ' User' || n || '@Example.org', NULL, 0, 'x' FROM generate_series(1, 1000) n"
    )
    scene.db.execute("UPDATE app.users SET email = NULL WHERE id = 1000")
    scene.db.execute(f"UPDATE app.users SET email = '{SECRET}' WHERE id = 7")
    return scene


def walked(scene, **job: Any) -> Job:
    made = Job(**job)
    scene.run(made)
    return made


def record(scene) -> dict[str, Any]:
    return scene.db.execute("SELECT verification FROM dbsec.backfills").fetchone()[0]


@MAIN
def test_a_mismatch_of_every_sort_is_found_named_and_repaired(users, said):
    job = walked(users, **WALK)
    clean = verify(users.db, job, range_rows=300)
    assert (clean.rows, clean.outside, clean.off, clean.empty, clean.ranges) == (1000, 0, 0, 1, 4)
    assert verified(users.db, job.name, job.digest)
    assert remaining(users.db, job) == 0

    users.db.execute("INSERT INTO app.users VALUES (2000, 'New@Example.org')")  # a client that writes the old way
    users.db.execute("UPDATE app.users SET email = 'Moved@Example.org' WHERE id = 400")  # and another one
    users.db.execute("UPDATE app.users SET normalized = 'off' WHERE id = 7")
    found = verify(users.db, job, range_rows=300, progress=said)
    assert found.mismatches == (Mismatch(("7",), "wrong"), Mismatch(("400",), "wrong"), Mismatch(("2000",), "missed"))
    assert (found.missed, found.null, found.wrong, found.rows) == (1, 0, 2, 1001)
    assert (found.ranges, found.changed_ranges) == (5, 2)
    assert remaining(users.db, job) == 3
    assert not verified(users.db, job.name, job.digest)
    assert said.counts[-1][0] == 1001

    mended = verify(users.db, job, range_rows=300, repair=True)
    assert (mended.off, mended.repaired, mended.mismatches) == (0, 3, ())
    assert users.db.execute("SELECT normalized FROM app.users WHERE id IN (7, 400, 2000) ORDER BY id").fetchall() == [
        (SECRET.lower(),),
        ("moved@example.org",),
        ("new@example.org",),
    ]
    assert verified(users.db, job.name, job.digest)
    assert verify(users.db, job).changed_ranges == 0


def test_without_where_a_null_is_told_from_a_wrong_value(users):
    job = walked(users, **{**WALK, "where": None})
    users.db.execute("UPDATE app.users SET normalized = NULL WHERE id = 5")
    users.db.execute("UPDATE app.users SET normalized = '' WHERE id = 6")
    found = verify(users.db, job)
    assert found.mismatches == (Mismatch(("5",), "null"), Mismatch(("6",), "wrong"))
    assert verify(users.db, job, repair=True).repaired == 2


def test_a_row_that_another_writer_mends_is_no_mismatch_of_the_repair(users):
    job = walked(users, **WALK)
    assert verify(users.db, job, repair=True).repaired == 0


def test_no_value_is_shown_or_recorded(users, said, capfd):
    job = walked(users, **WALK)
    users.db.execute("UPDATE app.users SET normalized = 'off' WHERE id = 7")
    found = verify(users.db, job, progress=said)
    shown = f"{found!r} {json.dumps(record(users))} {said.steps} {capfd.readouterr()}"
    kept = users.db.execute("SELECT * FROM dbsec.backfill_checksums, dbsec.backfills").fetchall()
    assert "secret" not in f"{shown} {kept}".lower()
    assert "mismatches" not in record(users)


def test_a_failing_expression_names_no_value(users):
    job = walked(users, **WALK)
    users.db.execute("ALTER TABLE app.users ADD age text")
    users.db.execute(f"UPDATE app.users SET age = '{SECRET}' WHERE id = 7")
    broken = Job(**{**WALK, "check": "age::int > 1"})
    assert broken.digest == job.digest
    with pytest.raises(ApplyError) as refused:
        verify(users.db, broken)
    assert "22P02" in refused.value.message
    assert "secret" not in repr(refused.value).lower()
    assert refused.value.__cause__ is None


@MAIN
def test_what_is_stored_is_compared_as_the_column_stores_it(scene):
    scene.db.execute("CREATE TABLE app.t (id int PRIMARY KEY, a numeric, j json, p point)")
    scene.db.execute(
        "ALTER TABLE app.t ADD b numeric(8, 1), ADD c char(6), ADD d int, ADD k json, ADD q point, ADD r text[]"
    )
    scene.db.execute(
        'INSERT INTO app.t SELECT n, n / 7.0, \'{"b":1, "a":2}\', point(n, 1) FROM generate_series(1, 50) n'
    )
    text = "b = a * 1.25, c = 'x', d = a * 10, k = j, q = p, r = ARRAY['a', 'b, c']"
    job = walked(scene, name="t", table="app.t", key=("id",), set=text)
    assert verify(scene.db, job).clean
    scene.db.execute('UPDATE app.t SET k = \'{"a":2, "b":1}\' WHERE id = 3')  # equal to jsonb, not to json
    scene.db.execute("UPDATE app.t SET q = NULL WHERE id = 4")
    assert {one.key: one.sort for one in verify(scene.db, job).mismatches} == {("3",): "wrong", ("4",): "null"}


@pytest.mark.pg(15)  # built with ICU
def test_letters_of_another_case_are_another_value(scene):
    scene.db.execute("CREATE COLLATION app.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    scene.db.execute("CREATE TABLE app.t (id int PRIMARY KEY, a text, b text COLLATE app.ci)")
    scene.db.execute("INSERT INTO app.t VALUES (1, 'a'), (2, 'b')")
    job = walked(scene, name="t", table="app.t", key=("id",), set="b = a")
    scene.db.execute("UPDATE app.t SET b = 'A' WHERE id = 1")
    assert [one.key for one in verify(scene.db, job).mismatches] == [("1",)]


def test_a_composite_key_is_named_whole_and_repaired(scene):
    scene.db.execute("CREATE TABLE app.t (a text, b int, v int, w int, PRIMARY KEY (a, b))")
    scene.db.execute("INSERT INTO app.t SELECT chr(65 + n % 3) || '''\"%', n, n FROM generate_series(1, 60) n")
    job = walked(scene, name="t", table="app.t", key=("a", "b"), set="w = v % 7")
    scene.db.execute("UPDATE app.t SET w = -1 WHERE b IN (4, 50)")
    found = verify(scene.db, job, range_rows=7)
    assert sorted(one.key for one in found.mismatches) == [("B'\"%", "4"), ("C'\"%", "50")]
    assert verify(scene.db, job, range_rows=7, repair=True).clean


def test_rows_that_the_job_is_not_about_are_counted_apart(users):
    job = walked(users, **{**WALK, "where": "seen = 0 AND normalized IS NULL"})
    users.db.execute("UPDATE app.users SET seen = 1, normalized = 'off' WHERE id <= 10")
    found = verify(users.db, job)
    assert (found.rows, found.outside, found.off) == (990, 10, 0)


def test_a_where_that_tells_nothing_of_a_done_row_needs_a_scope(users):
    job = walked(users, **{**EMAIL, "set": "kind = 'y'", "where": "kind = 'x'"})
    with pytest.raises(UsageError, match="none of 1,000 rows") as refused:
        verify(users.db, job)
    assert "scope" in refused.value.hint
    assert not verified(users.db, job.name, job.digest)
    scoped = Job(**{**EMAIL, "set": "kind = 'y'", "where": "kind = 'x'", "scope": "true"})
    assert verify(users.db, scoped).clean
    assert verified(users.db, job.name, job.digest)


@pytest.mark.parametrize("expression", ["random()::text", "now()::text"])
def test_values_that_differ_each_time_need_a_check(users, expression):
    written = {**EMAIL, "set": f"normalized = {expression}", "where": "normalized IS NULL"}
    job = walked(users, **written)
    with pytest.raises(UsageError, match="other values each time") as refused:
        verify(users.db, job, repair=True)
    assert "check" in refused.value.hint
    checked = Job(**written, check="normalized <> 'off'")
    assert verify(users.db, checked).clean
    users.db.execute("UPDATE app.users SET normalized = 'off' WHERE id = 3")
    users.db.execute("UPDATE app.users SET normalized = NULL WHERE id = 4")
    assert {one.key: one.sort for one in verify(users.db, checked).mismatches} == {("3",): "wrong", ("4",): "missed"}


@pytest.mark.parametrize("text", ["seen = seen + 1", "kind = 'y', seen = length(KIND)", 'seen = app.users."seen" + 1'])
def test_what_is_computed_from_itself_is_never_repaired_twice(users, text):
    job = walked(users, **EMAIL, set=text)
    with pytest.raises(UsageError, match="which it writes: what it was before is not known"):
        verify(users.db, job, repair=True)
    assert users.db.execute("SELECT DISTINCT seen FROM app.users WHERE id > 1").fetchall() == [(1,)]
    users.db.execute("UPDATE app.users SET seen = 0 WHERE id = 9")
    assert verify(users.db, Job(**EMAIL, set=text, check="seen = 1"), repair=True).repaired == 1


def test_columns_set_from_one_query_need_a_check(users):
    job = walked(users, **EMAIL, set="(kind, seen) = (SELECT 'y', 1)")
    with pytest.raises(UsageError, match="no expression of its own"):
        verify(users.db, job)
    assert verify(users.db, Job(**EMAIL, set=job.set, check="seen = 1")).clean


def encode(rows):
    return [{"id": row["id"], "normalized": base64.b64encode((row["email"] or "").encode()).decode()} for row in rows]


NONCES = itertools.count()


def encrypt(rows):
    return [{"id": row["id"], "normalized": f"{next(NONCES)}:{row['email']}"} for row in rows]


def decrypts(rows):
    return [row["normalized"] is not None and row["normalized"].partition(":")[2] == str(row["email"]) for row in rows]


PYTHON = {**EMAIL, "columns": ("email",), "where": "normalized IS NULL"}


@MAIN
def test_a_job_in_python_is_recomputed_and_the_server_compares(users):
    job = walked(users, **PYTHON, python=encode)
    assert verify(users.db, job, range_rows=300).clean
    users.db.execute("UPDATE app.users SET email = 'changed' WHERE id = 5")
    users.db.execute("UPDATE app.users SET normalized = NULL WHERE id = 6")
    found = verify(users.db, job, range_rows=300)
    assert {one.key: one.sort for one in found.mismatches} == {("5",): "wrong", ("6",): "missed"}
    assert remaining(users.db, job) == 1  # what `where` can see
    assert verify(users.db, job, repair=True).repaired == 2
    assert verified(users.db, job.name, job.digest)


def test_a_function_that_gives_another_value_each_time_needs_a_check(users):
    job = walked(users, **PYTHON, python=encrypt)
    with pytest.raises(UsageError, match="gives another value each time"):
        verify(users.db, job)
    checked = Job(**PYTHON, python=encrypt, check=decrypts)
    assert verify(users.db, checked).clean
    users.db.execute("UPDATE app.users SET email = 'changed' WHERE id = 5")
    assert verify(users.db, checked).mismatches == (Mismatch(("5",), "wrong"),)
    assert verify(users.db, checked, repair=True).clean
    assert job.digest == checked.digest


@pytest.mark.parametrize(
    ("check", "why"),
    [
        (lambda rows: [True], "it must return one bool for each row"),
        (lambda rows: [row["email"].upper() == "" for row in rows], "AttributeError at "),
        (lambda rows: int(rows[6]["email"]), "ValueError at "),
    ],
)
def test_a_check_that_fails_is_told_without_a_value(users, check, why):
    walked(users, **PYTHON, python=encode)
    with pytest.raises(ApplyError, match=why) as refused:
        verify(users.db, Job(**PYTHON, python=encode, check=check))
    assert "secret" not in f"{refused.value!r} {refused.value.__cause__!r}".lower()


def test_a_job_in_python_can_say_what_it_is_about(users):
    walked(users, **PYTHON, python=encode)
    found = verify(users.db, Job(**PYTHON, python=encode, scope="id > 100"))
    assert (found.rows, found.outside, found.off) == (900, 100, 0)


def test_another_definition_is_not_verified_by_the_record_of_the_first(users):
    job = walked(users, **WALK)
    verify(users.db, job)
    other = Job(**{**WALK, "set": "normalized = upper(email)"})
    assert not verified(users.db, other.name, other.digest)
    with pytest.raises(UsageError, match="begun with another definition"):
        verify(users.db, other)
    with pytest.raises(UsageError, match="there is no backfill 'never'"):
        verify(users.db, Job(**{**WALK, "name": "never"}))


def test_a_verification_locks_nobody_out(users):
    job = walked(users, **WALK)
    with users.another() as service:
        service.execute("BEGIN; UPDATE app.users SET seen = 1; LOCK TABLE app.users IN EXCLUSIVE MODE")
        assert verify(users.db, job).clean
        service.execute("ROLLBACK")


def test_an_empty_table_is_verified(scene):
    scene.table(0)
    job = scene.job()
    scene.run(job)
    assert verify(scene.db, replace(job, check="true")).rows == 0


def test_the_command_names_keys_and_repairs(users, tmp_path):
    job = walked(users, **{**WALK, "name": "007_normalize"})
    text = f"format = 1\ntable = 'app.users'\nkey = 'id'\nset = '{job.set}'\nwhere = '{job.where}'\nbatch_rows = 100\n"
    (tmp_path / "007_normalize.toml").write_text(text)
    files.write_atomic(tmp_path / "dsn", users.conninfo.text())
    users.db.execute("UPDATE app.users SET normalized = 'off' WHERE id IN (7, 8)")

    def command(*argv: str) -> subprocess.CompletedProcess[str]:
        whole = [sys.executable, "-m", "dbsec", "backfill", "verify", "007_normalize.toml", "--dsn", "file:dsn", *argv]
        return subprocess.run(whole, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    found = command()
    assert found.returncode == 1, found.stderr
    assert found.stdout.splitlines()[:2] == ["wrong: 7", "wrong: 8"]
    assert "1,000 rows judged in 1 ranges" in found.stdout
    mended = command("--repair", "--format", "json")
    assert (mended.returncode, json.loads(mended.stdout)["result"]["repaired"]) == (0, 2)
    assert "secret" not in f"{found} {mended}".lower()
    assert verified(users.db, job.name, job.digest)
