"""Pause, resume, abort from another session; a name that belongs to another job; what cannot be walked is refused."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dbsec import backfill, retry
from dbsec.backfill import State
from dbsec.backfill import target as targets
from dbsec.errors import ApplyError, UsageError
from dbsec.journal import Edge

pytestmark = pytest.mark.pg(17)
MAIN = pytest.mark.pg(15, 17, 18)


def visited(scene: Any) -> int:
    return int(backfill.status(scene.db, "count").visited)


@MAIN
def test_when_pause_returns_no_batch_is_under_way_and_none_begins(scene, stop, said):
    scene.table(500)
    held = stop("range 1 batch 2", Edge.AFTER_EFFECT)
    run = scene.background(scene.job(batch_rows_max=50), observer=held, progress=said)
    assert held.reached.wait(30)
    with scene.another() as other:
        pausing = threading.Thread(target=backfill.pause, args=(other, "count"))
        pausing.start()
        scene.until("SELECT state = 'paused' FROM dbsec.backfills", "the state to be written")
        waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE pid = {} AND wait_event_type = 'Lock'"
        scene.until(waits.format(other.info.backend_pid), "pause to wait for the batch")
        assert visited(scene) == 50
        held.go_on.set()
        pausing.join(30)
    assert not pausing.is_alive()
    assert visited(scene) == 100
    retry.wait_until(lambda: said.has("paused; to go on: dbsec backfill resume count"), within_s=30, what="the worker")
    assert visited(scene) == 100
    backfill.resume(scene.db, "count")
    assert run.result().state is State.DONE
    assert scene.times() == {1: 500}


def test_a_run_that_joins_a_paused_one_waits_too(scene, stop):
    scene.table(500)
    held = stop("range 1 batch 1", Edge.BEFORE)
    first = scene.background(scene.job(), observer=held)
    assert held.reached.wait(30)
    scene.db.execute("UPDATE dbsec.backfills SET state = 'paused'")
    held.go_on.set()
    second = scene.background(scene.job())
    retry.wait_until(lambda: visited(scene) == 50, within_s=30, what="the batch under way to end")
    backfill.resume(scene.db, "count")
    assert {first.result().state, second.result().state} == {State.DONE}
    assert scene.times() == {1: 500}


@MAIN
def test_abort_ends_the_run_and_resume_lets_another_go_on(scene, stop):
    scene.table(500)
    held = stop("range 2 batch 1", Edge.AFTER_RECORD)
    run = scene.background(scene.job(batch_rows_max=50), observer=held)
    assert held.reached.wait(30)
    backfill.abort(scene.db, "count")
    done = visited(scene)
    held.go_on.set()
    assert run.result().state is State.ABORTED
    assert visited(scene) == done == 150
    with pytest.raises(ApplyError, match="was aborted") as refused:
        scene.run(scene.job())
    assert refused.value.hint == "dbsec backfill resume count --dsn REF"
    backfill.resume(scene.db, "count")
    assert scene.run(scene.job()).state is State.DONE
    assert scene.times() == {1: 500}


def test_an_abort_is_seen_by_a_worker_that_the_throttle_holds(scene):
    scene.table(500)
    waiting = threading.Event()

    class Shut:
        def wait(self, told: Any, *, go_on: Any) -> float:
            waiting.set()
            return retry.wait_until(lambda: not go_on(), within_s=30, what="the end of the wait")

    run = scene.background(scene.job(), throttle=Shut())
    assert waiting.wait(30)
    backfill.abort(scene.db, "count")
    assert run.result().state is State.ABORTED
    assert scene.times() == {0: 500}


def test_what_is_done_is_done_once(scene):
    scene.table(100)
    scene.run(scene.job())
    again = scene.run(scene.job(batch_rows=7, batch_ms=50))
    assert (again.state, again.status.visited, scene.times()) == (State.DONE, 100, {1: 100})
    for act in (backfill.pause, backfill.resume, backfill.abort):
        with pytest.raises(UsageError, match="backfill 'count' is done"):
            act(scene.db, "count")


def test_another_job_of_the_same_name_is_refused_until_the_first_is_forgotten(scene):
    scene.table(100)
    scene.run(scene.job())
    other = scene.job(set="n = n + 2", where="n = 1")
    with pytest.raises(UsageError, match="begun with another definition: set, where") as refused:
        scene.run(other)
    assert "dbsec backfill forget count" in refused.value.hint
    backfill.forget(scene.db, "count")
    scene.run(other)
    assert scene.times() == {3: 100}
    with pytest.raises(UsageError, match="no backfill 'conut'") as unknown:
        backfill.pause(scene.db, "conut")
    assert "status count" in unknown.value.hint


def test_one_that_runs_is_not_forgotten_under_its_workers(scene, stop):
    scene.table(100)
    held = stop("range 1 batch 1", Edge.BEFORE)
    run = scene.background(scene.job(), observer=held)
    assert held.reached.wait(30)
    with pytest.raises(UsageError, match="is running"):
        backfill.forget(scene.db, "count")
    held.go_on.set()
    run.result()


def test_several_may_begin_it_at_once(scene):
    scene.table(1000)
    runs = [scene.background(scene.job()) for _ in range(4)]
    assert {run.result().state for run in runs} == {State.DONE}
    assert scene.times() == {1: 1000}


@MAIN
def test_triggers_know_who_writes_and_no_search_path_is_lent(scene):
    scene.table(10)
    scene.db.execute("CREATE TABLE app.seen (by text, path text)")
    scene.db.execute(
        "CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO app.seen"
        " SELECT current_setting('dbsec.backfill', true), current_setting('search_path'); RETURN NEW; END $$"
    )
    scene.db.execute("CREATE TRIGGER note BEFORE UPDATE ON app.t FOR EACH ROW EXECUTE FUNCTION app.note()")
    scene.run(scene.job())
    assert scene.db.execute("SELECT DISTINCT by, path FROM app.seen").fetchall() == [("on", '"pg_catalog", "pg_temp"')]
    scene.db.execute("CREATE FUNCTION app.plus(int) RETURNS int LANGUAGE sql AS 'SELECT $1 + 1'")
    with pytest.raises(ApplyError, match="42883") as refused:
        scene.run(scene.job(name="bare", set="n = plus(n)"))
    assert 'search_path = ["..."]' in refused.value.hint
    scene.run(scene.job(name="lent", set="n = plus(n)", search_path=("app",)))
    assert scene.times() == {2: 10}


REFUSED = {
    "no table": ("", {"table": "app.nope"}, "there is no table 'app.nope'"),
    "no column": ("", {"key": ("nope",)}, "has no column 'nope'"),
    "a view": ("CREATE VIEW app.w AS SELECT * FROM app.t", {"table": "app.w"}, "'app.w' is a view"),
    "not unique": ("", {"key": ("v",)}, "not what a unique btree index has"),
    "may be null": ("CREATE UNIQUE INDEX ON app.t (v)", {"key": ("v",)}, "'v' may be null"),
    "partial": ("CREATE UNIQUE INDEX ON app.t (n) WHERE n > 0", {"key": ("n",)}, "not what a unique"),
    "an expression": ("CREATE UNIQUE INDEX ON app.t (abs(n))", {"key": ("n",)}, "not what a unique"),
    "another order": ("CREATE UNIQUE INDEX ON app.t (n, id)", {"key": ("id", "n")}, "not what a unique"),
    "mixed directions": ("CREATE UNIQUE INDEX ON app.t (n, id DESC)", {"key": ("n", "id")}, "not what a unique"),
    "another collation": (
        'ALTER TABLE app.t ALTER v SET NOT NULL; CREATE UNIQUE INDEX ON app.t (v COLLATE "C")',
        {"key": ("v",)},
        "not what a unique",
    ),
    "another operator class": (
        "ALTER TABLE app.t ALTER v SET NOT NULL; CREATE UNIQUE INDEX ON app.t (v text_pattern_ops)",
        {"key": ("v",)},
        "not what a unique",
    ),
    "a type without one text": (
        "ALTER TABLE app.t ADD j jsonb NOT NULL; CREATE UNIQUE INDEX ON app.t (j)",
        {"key": ("j",)},
        "type jsonb cannot be walked",
    ),
    "tables that inherit": ("CREATE TABLE app.child () INHERITS (app.t)", {}, "tables that inherit"),
}


def test_what_cannot_be_walked_is_refused_with_what_can(scene):
    scene.table(0)
    for kind, (ddl, changes, said) in REFUSED.items():
        with scene.db.transaction(force_rollback=True):
            scene.db.execute(ddl or "SELECT")
            with pytest.raises(UsageError, match=said) as refused:
                targets.find(scene.db, scene.job(**changes))
        if said.startswith(("not what", "'v' may", "type ")):
            assert 'key = ["id"]' in refused.value.hint, kind


def test_without_schema_dbsec_nothing_begins(scene):
    scene.table(10)
    scene.db.execute("DROP SCHEMA dbsec CASCADE")
    with pytest.raises(ApplyError, match="schema 'dbsec' is not installed"):
        scene.run(scene.job())
    assert scene.times() == {0: 10}


@pytest.mark.pg(18)
def test_a_not_null_that_no_row_was_checked_for_is_none(scene):
    scene.db.execute("CREATE TABLE app.t (a int UNIQUE, n int DEFAULT 0)")
    scene.db.execute("INSERT INTO app.t SELECT NULL FROM generate_series(1, 3)")
    scene.db.execute("ALTER TABLE app.t ADD CONSTRAINT here NOT NULL a NOT VALID")
    with pytest.raises(UsageError, match="'a' may be null"):
        scene.run(scene.job(key=("a",)))


@MAIN
def test_rows_that_a_policy_hides_are_not_left_out_in_silence(scene):
    scene.table(10)
    scene.db.execute("ALTER TABLE app.t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    scene.db.execute("CREATE POLICY half ON app.t USING (id > 15)")
    role = f"r_{scene.conninfo.dbname}"
    scene.db.execute(f"CREATE ROLE {role}")
    try:
        scene.db.execute(f"GRANT ALL ON app.t TO {role}; GRANT USAGE ON SCHEMA app, dbsec TO {role}")
        scene.db.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA dbsec TO {role}")
        scene.db.execute(f"ALTER DATABASE {scene.conninfo.dbname} SET role = {role}")
        with pytest.raises(ApplyError, match=r"row-level security hides rows of 'app\.t'"):
            scene.run(scene.job())
    finally:
        scene.db.execute(f"ALTER DATABASE {scene.conninfo.dbname} RESET role")
        scene.db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.pg(15, 17, 18)
@pytest.mark.parametrize("state", ["42501", "23514", "53100"])
def test_what_a_trigger_says_of_a_row_is_not_shown(scene, state):
    scene.table(3)
    scene.db.execute("UPDATE app.t SET v = 'ssn-987654'")
    body = f"BEGIN RAISE 'bad %', old.v USING ERRCODE = '{state}', TABLE = old.v; END"
    scene.db.execute(f"CREATE FUNCTION app.loud() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
    scene.db.execute("CREATE TRIGGER loud BEFORE UPDATE ON app.t FOR EACH ROW EXECUTE FUNCTION app.loud()")
    with pytest.raises(ApplyError, match=f"SQLSTATE {state}") as refused:
        scene.run(scene.job())
    assert "987654" not in f"{refused.value} {refused.value.hint}"
