"""A verification that two run at once, or whose ``where`` speaks of written columns, leaves no row unjudged; a repair
touches no row twice; and no error quotes what a trigger raised."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dbsec.backfill.verify import verify
from dbsec.errors import ApplyError, UsageError

pytestmark = pytest.mark.pg(17)
SECRET = "zoe.secret@example.org"


def test_ranges_of_two_verifications_at_once_leave_no_gap(scene):
    scene.table(1000)
    job = scene.job(set="v = 'x'")
    scene.run(job)
    assert verify(scene.db, job, range_rows=100).ranges == 10
    # what two leave behind that entered their ranges in turn: (.., 300] and then (2700, 3000]
    scene.db.execute("DELETE FROM dbsec.backfill_checksums WHERE n BETWEEN 2 AND 9")
    scene.db.execute("UPDATE dbsec.backfill_checksums SET n = 2 WHERE n = 10")
    scene.db.execute("UPDATE app.t SET v = 'off' WHERE id = 1500")
    found = verify(scene.db, job, range_rows=100)
    assert (found.rows, found.wrong) == (1000, 1)


def test_a_row_that_needs_the_job_is_never_outside_of_it(scene):
    scene.table(100)
    scene.db.execute("UPDATE app.t SET v = CASE WHEN id > 150 THEN 'old' END")
    job = scene.job(set="v = 'new'", where="v = 'old' OR (v IS NULL AND id < 30)")
    scene.run(job)
    assert verify(scene.db, job).clean
    scene.db.execute("UPDATE app.t SET v = 'old' WHERE id = 300")
    found = verify(scene.db, job)
    assert [(one.key, one.sort) for one in found.mismatches] == [(("300",), "missed")]
    assert verify(scene.db, job, repair=True).clean


def test_intervals_that_are_equal_and_not_the_same_are_told_apart(scene):
    scene.table(2)
    scene.db.execute("ALTER TABLE app.t ADD span interval")
    job = scene.job(set="span = interval '1 mon'")
    scene.run(job)
    scene.db.execute("UPDATE app.t SET span = %s WHERE id = 3", (timedelta(days=30),))
    assert [one.key for one in verify(scene.db, job).mismatches] == [("3",)]


def test_a_function_that_reads_what_it_writes_is_never_repaired_twice(scene):
    scene.table(20)
    job = scene.python(lambda rows: [{**row, "n": row["n"] + 1} for row in rows])
    scene.run(job)
    with pytest.raises(UsageError, match="reads 'n', which it writes"):
        verify(scene.db, job, repair=True)
    assert scene.times() == {1: 20}


def test_a_repair_in_python_leaves_rows_alone_that_the_job_is_not_about(scene):
    scene.table(20)
    job = scene.python(
        lambda rows: [{"id": row["id"], "v": "new"} for row in rows], columns=("n",), where="v IS NULL AND id < 30"
    )
    scene.run(job)
    found = verify(scene.db, job, repair=True)
    assert (found.clean, found.repaired) == (True, 0)
    assert scene.db.execute("SELECT count(*) FROM app.t WHERE v = 'new'").fetchone() == (9,)
    scene.db.execute("UPDATE app.t SET v = 'off' WHERE id = 3")
    assert verify(scene.db, job, repair=True).repaired == 1


def test_a_function_may_change_the_rows_that_it_is_given(scene):
    scene.table(100)

    def change(rows):
        for row in rows:
            row["v"] = f"{row.pop('n')}"
            yield row

    assert scene.run(scene.python(change)).status.changed == 100
    for wrong in (lambda rows: [{"id": [3], "v": "x"}], lambda rows: exit(0)):
        with pytest.raises(ApplyError, match="failed"):
            scene.run(scene.python(wrong, name=f"w{id(wrong)}"))


@pytest.mark.parametrize("raised", ["RAISE EXCEPTION 'no %', NEW.v USING ERRCODE = '42501'",
                                    "RAISE EXCEPTION 'no %', NEW.v USING ERRCODE = '55000'",
                                    "EXECUTE 'SELECT ' || NEW.v"])  # fmt: skip
def test_what_a_trigger_says_of_a_row_is_not_told(raised, scene):
    scene.table(5)
    scene.db.execute("UPDATE app.t SET v = %s", (SECRET,))
    scene.db.execute(
        f"CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {raised}; RETURN NEW; END $$;"
        " CREATE TRIGGER f BEFORE UPDATE ON app.t FOR EACH ROW EXECUTE FUNCTION app.f()"
    )
    with pytest.raises(ApplyError) as refused:
        scene.run(scene.job())
    assert "secret" not in f"{refused.value!r} {refused.value.hint} {refused.value.__cause__!r}"
