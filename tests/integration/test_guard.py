"""The guard on real servers: installed, upgraded, proven, overridden, dumped, restored and removed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

from dbsec import retry
from dbsec.errors import ApplyError, GaveUp, UsageError
from dbsec.evidence import Outcome
from dbsec.migrations import guard
from dbsec.migrations.guard import Policy
from dbsec.migrations.guard.parts import TRIGGERS
from dbsec.migrations.runner.target import Asked, Target
from dbsec.migrations.runner.up import up
from dbsec.migrations.settings import Settings
from dbsec.pg import Conninfo, connect, own
from dbsec.testing.clusters import Cluster

pytestmark = pytest.mark.pg(15, 17, 18)

ROOT = Path(__file__).resolve().parents[2]
FIRST = ROOT / "tests" / "vectors" / "guardrails_first.sql"  # of dbsec before it was generated
SMALL = {"max_table_size": "64kB", "protected": {"table": ["app.kept"], "index": ["app.kept_idx"]}}
SETUP = """
CREATE SCHEMA app;
CREATE TABLE app.big AS SELECT i AS id, repeat('x', 100) AS note FROM generate_series(1, 2000) i;
CREATE TABLE app.small (id int);
CREATE TABLE app.kept (id int);
CREATE INDEX kept_idx ON app.kept (id);
CREATE MATERIALIZED VIEW app.seen AS SELECT count(*) AS n FROM app.big;
"""
EVERYTHING = """
SELECT 'proc', oid::regprocedure::text FROM pg_proc WHERE oid >= 16384
UNION ALL SELECT 'class', oid::regclass::text FROM pg_class WHERE oid >= 16384 AND relkind <> 't' AND relkind <> 'i'
UNION ALL SELECT 'namespace', nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'
UNION ALL SELECT 'trigger', evtname FROM pg_event_trigger
UNION ALL SELECT 'description', description FROM pg_description WHERE objoid >= 16384
UNION ALL SELECT 'lock', objid::text FROM pg_locks WHERE locktype = 'advisory'
"""


class Database(Protocol):
    """What the fixture ``database`` gives."""

    cluster: Cluster
    conninfo: Conninfo


def policy(**changes: Any) -> Policy:
    return Policy.of({**SMALL, **changes}, where="test")


def everything(session: psycopg.Connection[Any]) -> Counter[Any]:
    return Counter(session.execute(EVERYTHING).fetchall())


@pytest.fixture
def admin(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with connect(database.conninfo.but(options="-c statement_timeout=60s")) as session:
        session.execute(SETUP)
        yield session


@pytest.fixture
def guarded(admin: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    guard.install(admin, policy())
    return admin


def outcomes(proofs: list[guard.Proof], *which: Outcome) -> set[str]:
    return {proof.name for proof in proofs if proof.outcome in which}


def warnings(session: psycopg.Connection[Any]) -> list[tuple[str | None, str | None]]:
    said: list[tuple[str | None, str | None]] = []
    session.add_notice_handler(lambda one: said.append((one.sqlstate, one.message_primary)))
    return said


# --- install, upgrade, uninstall ----------------------------------------------------------------------------------


def test_installed_twice_it_is_the_same_and_removed_it_is_gone(admin: psycopg.Connection[Any]) -> None:
    before = everything(admin)
    ahead = guard.plan(admin, policy())
    assert everything(admin) == before, "a plan changes nothing"
    assert guard.install(admin, policy()) == ahead
    assert guard.plan(admin, policy()) == guard.Plan()
    installed = everything(admin)
    assert guard.install(admin, policy()).changes == ()
    admin.execute(guard.render(policy()).encode())  # as psql would, again
    assert everything(admin) == installed
    assert guard.plan(admin, policy()) == guard.Plan()
    assert {f"remove  event trigger {one.name}" for one in TRIGGERS} < {str(c) for c in guard.uninstall(admin).changes}
    assert everything(admin) == before
    assert guard.uninstall(admin) == guard.Plan()


def test_the_first_guard_is_replaced(admin: psycopg.Connection[Any]) -> None:
    before = everything(admin)
    admin.execute(FIRST.read_bytes())
    ahead = {str(change) for change in guard.plan(admin, policy()).changes}
    assert {"remove  event trigger dbsec_guard_drop", "remove  function dbsec_guard.index_start"} < ahead
    admin.execute(guard.render(policy()).encode())
    assert guard.plan(admin, policy()) == guard.Plan()
    admin.execute(guard.render_down().encode())
    assert everything(admin) == before


def test_a_plan_names_what_differs_and_an_installation_mends_it(guarded: psycopg.Connection[Any]) -> None:
    guarded.execute("UPDATE dbsec_guard.guards SET mode = 'off' WHERE name = 'drop'")
    guarded.execute("DELETE FROM dbsec_guard.protected WHERE object_type = 'index'")
    guarded.execute("INSERT INTO dbsec_guard.protected VALUES ('view', 'app.old', true)")
    guarded.execute("ALTER EVENT TRIGGER dbsec_guard_7_rewrite ENABLE")
    guarded.execute("DROP EVENT TRIGGER dbsec_guard_2_query")
    guarded.execute("ALTER FUNCTION dbsec_guard.judge_drop() SECURITY INVOKER")
    found = guard.plan(guarded, policy(lock_timeout="1s"))
    assert [str(change) for change in found.changes] == [
        "replace function dbsec_guard.judge_drop: it was made by another dbsec, or by hand",
        "create  event trigger dbsec_guard_2_query: on ddl_command_start",
        "enable  event trigger dbsec_guard_7_rewrite: always, also for a session that says it is a replica",
        "set     row of dbsec_guard.guards: drop, DBG03, enforce",
        "set     row of dbsec_guard.settings: lock_timeout, 1s",
        "set     row of dbsec_guard.protected: index, app.kept_idx",
        "remove  row of dbsec_guard.protected: view, app.old",
    ]
    assert found.notes == ("no view 'app.old' is there: what is protected is written as PostgreSQL writes it",)
    guard.install(guarded, policy(lock_timeout="1s"))
    assert guard.plan(guarded, policy(lock_timeout="1s")) == guard.Plan()


def test_a_row_of_a_person_stays_and_wins(guarded: psycopg.Connection[Any]) -> None:
    guarded.execute("INSERT INTO dbsec_guard.table_limits VALUES ('app.big', 1000000000, 'tonight')")
    guarded.execute("ALTER TABLE app.big ALTER COLUMN id TYPE bigint")
    wanted = policy(tables={"app.big": {"hot": True}})
    guard.install(guarded, wanted)
    found = guard.plan(guarded, wanted)
    assert found.changes == ()
    assert found.notes == (
        "dbsec_guard.table_limits: 'app.big, 1000000000, tonight' is no row of the policy's, and is kept",
    )
    guarded.execute("ALTER TABLE app.big ALTER COLUMN id TYPE int")
    guarded.execute("DELETE FROM dbsec_guard.table_limits WHERE NOT by_policy")
    assert [str(c) for c in guard.plan(guarded, wanted).changes] == [
        "set     row of dbsec_guard.table_limits: app.big, 0, "
    ]


def test_an_ordinary_login_is_told_who_may_install(cluster_factory: Callable[..., Cluster]) -> None:
    cluster = cluster_factory()
    with connect(cluster.admin) as admin:
        admin.execute("CREATE ROLE somebody LOGIN PASSWORD 'superuser-of-a-test-cluster'")
    with connect(cluster.admin.but(user="somebody")) as somebody:
        with pytest.raises(ApplyError, match="42501") as refused:
            guard.install(somebody, policy())
        assert "superuser" in refused.value.hint
        with pytest.raises(ApplyError, match="no guard is installed"):
            guard.selftest(somebody)


# --- selftest -----------------------------------------------------------------------------------------------------


def test_the_selftest_proves_all_and_leaves_nothing(guarded: psycopg.Connection[Any]) -> None:
    before = everything(guarded)
    proofs = guard.selftest(guarded)
    skipped = {"REINDEX", "transaction_timeout"} if guarded.info.server_version < 170000 else set()
    assert outcomes(proofs, Outcome.SKIP) == skipped
    assert outcomes(proofs, Outcome.FAIL, Outcome.ERROR) == set()
    assert {"CREATE INDEX CONCURRENTLY works", "DROP INDEX CONCURRENTLY works"} < outcomes(proofs, Outcome.PASS)
    assert everything(guarded) == before
    assert guard.plan(guarded, policy()) == guard.Plan()


BREAKS = {
    "ALTER EVENT TRIGGER dbsec_guard_1_time DISABLE": {"lock_timeout"},
    "ALTER EVENT TRIGGER dbsec_guard_2_query DISABLE": {"an index, by its text"},
    "ALTER EVENT TRIGGER dbsec_guard_4_build DISABLE": {"an index in a block", "the index of a constraint"},
    "ALTER EVENT TRIGGER dbsec_guard_5_definer DISABLE": {"a definer's function"},
    "ALTER EVENT TRIGGER dbsec_guard_6_tenancy DISABLE": {"row security of a tenant's new table"},
    "ALTER EVENT TRIGGER dbsec_guard_7_rewrite DISABLE": {"a rewrite"},
    "ALTER EVENT TRIGGER dbsec_guard_8_drop DISABLE": {
        *("the loss of what is protected", "the same by cascade", "the same by one that says it is a replica")
    },
    "ALTER EVENT TRIGGER dbsec_guard_8_drop ENABLE": {"the same by one that says it is a replica"},
    "ALTER EVENT TRIGGER dbsec_guard_2_query DISABLE; ALTER EVENT TRIGGER dbsec_guard_3_settings DISABLE": {
        *("an index, by its text", "DDL without a statement_timeout", "DDL under another search_path")
    },
    "CREATE OR REPLACE FUNCTION dbsec_guard.overridden() RETURNS int LANGUAGE sql AS 'SELECT 1'": set(),
    # the two that the facts tell of: what writes before a drop, and what refuses CONCURRENTLY at its end
    """CREATE TABLE app.audit (tag text);
       CREATE FUNCTION app.writes() RETURNS event_trigger LANGUAGE plpgsql AS
         'BEGIN INSERT INTO app.audit VALUES (tg_tag); END';
       CREATE EVENT TRIGGER writes ON ddl_command_start EXECUTE FUNCTION app.writes()""": {
        "DROP INDEX CONCURRENTLY works"
    },
}


@pytest.mark.pg(17)
@pytest.mark.parametrize("how", BREAKS)
def test_the_selftest_sees_a_guard_that_does_not_hold(guarded: psycopg.Connection[Any], how: str) -> None:
    guarded.execute(how.encode())
    failed = outcomes(guard.selftest(guarded), Outcome.FAIL)
    own_fault = {"it is installed as this dbsec writes it"} if "app.writes" not in how else set()
    missing = {"transaction_timeout"} if "1_time" in how else set()
    assert failed == BREAKS[how] | own_fault | missing


@pytest.mark.pg(17)
def test_the_selftest_sees_a_trigger_that_breaks_concurrent_builds(guarded: psycopg.Connection[Any]) -> None:
    guarded.execute(
        "CREATE FUNCTION app.vetoes() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';"
        "CREATE EVENT TRIGGER vetoes ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION app.vetoes()"
    )
    assert "CREATE INDEX CONCURRENTLY works" in outcomes(guard.selftest(guarded), Outcome.FAIL)


@pytest.mark.pg(17)
def test_the_selftest_skips_what_is_off_observed_or_overridden(admin: psycopg.Connection[Any]) -> None:
    guard.install(admin, policy(modes={"rewrite": "off", "index": "observe", "lock_timeout": "observe"}))
    guard.override(admin, "definer", "a test")
    found = {proof.name: proof for proof in guard.selftest(admin)}
    for name, said in {
        "a rewrite": "has guard 'rewrite' off",
        "an index in a block": "guard 'index' observes: it warned",
        "lock_timeout": "guard 'lock_timeout' observes: it warned",
        "a definer's function": "override 1 of guard 'definer' is open",
    }.items():
        assert (found[name].outcome, said in found[name].reason) == (Outcome.SKIP, True), found[name]
    assert found["DDL without a statement_timeout"].outcome is Outcome.PASS


@pytest.mark.pg(17)
def test_the_selftest_is_unsure_where_somebody_is_in_the_way(
    guarded: psycopg.Connection[Any], database: Database
) -> None:
    with connect(database.conninfo, autocommit=False) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT FROM app.small")  # a snapshot, which CONCURRENTLY waits for
        told: list[guard.Proof] = []

        def impatient(proof: guard.Proof) -> None:
            told.append(proof)
            if "override" in proof.name:  # the last before CONCURRENTLY
                guarded.execute("SET statement_timeout = '200ms'")

        proofs = guard.selftest(guarded, told=impatient)
    assert told == proofs
    assert "CREATE INDEX CONCURRENTLY works" in outcomes(proofs, Outcome.ERROR)


@pytest.mark.pg(17)
def test_two_selftests_do_not_meet(guarded: psycopg.Connection[Any], database: Database) -> None:
    def second(_: guard.Proof) -> None:
        with connect(database.conninfo) as other, pytest.raises(GaveUp, match="another selftest"):
            guard.selftest(other)

    assert outcomes(guard.selftest(guarded, told=second), Outcome.FAIL) == set()
    guarded.execute("CREATE SCHEMA dbsec_guard_selftest")
    with pytest.raises(ApplyError, match="is not the selftest's"):
        guard.selftest(guarded)
    assert guarded.execute("SELECT to_regnamespace('dbsec_guard_selftest') IS NOT NULL").fetchone() == (True,)


KILLED = """
import os, signal, sys
from dbsec.migrations import guard
from dbsec.pg import Conninfo, connect

def told(proof):
    if proof.name == sys.argv[1]:
        print("now", flush=True)
        signal.pause()

guard.selftest(connect(Conninfo.parse(os.environ["DSN"])), told=told)
"""


@pytest.mark.pg(17)
@pytest.mark.parametrize("at", ["it is installed as this dbsec writes it", "CREATE INDEX CONCURRENTLY works"])
def test_what_a_killed_selftest_leaves_the_next_one_removes(
    guarded: psycopg.Connection[Any], database: Database, at: str
) -> None:
    before = everything(guarded)
    env = {**os.environ, "DSN": database.conninfo.text()}
    run = subprocess.Popen([sys.executable, "-c", KILLED, at], env=env, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "now\n"
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    run.stdout.close()
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    retry.wait_until(lambda: guarded.execute(others).fetchone() == (0,), within_s=10, what="the killed session to end")
    assert guarded.execute("SELECT to_regclass('dbsec_guard_selftest.big') IS NOT NULL").fetchone() == (True,)
    assert outcomes(guard.selftest(guarded), Outcome.FAIL, Outcome.ERROR) == set()
    assert everything(guarded) == before


# --- modes and overrides ------------------------------------------------------------------------------------------


def test_a_guard_that_observes_warns_once_and_lets_pass(admin: psycopg.Connection[Any], database: Database) -> None:
    guard.install(admin, policy(mode="observe"))
    said = warnings(admin)
    with admin.transaction():
        admin.execute("CREATE INDEX ON app.big (id)")
        admin.execute("ALTER TABLE app.big ALTER COLUMN id TYPE bigint")
        admin.execute("DROP TABLE app.kept")
    codes = [code for code, _ in said if str(code).startswith("DBG")]
    assert codes == ["DBG02", "DBG01", "DBG03"]
    assert [text for _, text in said if text == "DDL without a lock_timeout"]
    log = database.cluster.log.read_text()
    assert 'LOG:  dbsec guard "drop", observe: DROP TABLE would drop what is protected: table app.kept' in log


def test_a_guard_that_is_off_says_nothing(admin: psycopg.Connection[Any]) -> None:
    guard.install(admin, policy(mode="off"))
    said = warnings(admin)
    admin.execute("SET statement_timeout = 0")
    admin.execute("CREATE INDEX ON app.big (id); ALTER TABLE app.big ALTER COLUMN id TYPE bigint; DROP TABLE app.kept")
    assert said == []


def test_an_override_is_for_one_guard_one_login_and_a_while(
    guarded: psycopg.Connection[Any], database: Database
) -> None:
    number = guard.override(guarded, "drop", "INC-1: a 'reason'", lasts="5min")
    with pytest.raises(psycopg.Error) as refused:
        guarded.execute("ALTER TABLE app.big ALTER COLUMN id TYPE bigint")
    assert refused.value.sqlstate == "DBG01"
    guarded.execute("DROP INDEX CONCURRENTLY app.kept_idx")  # nothing is written before it
    assert "override 1 of 'drop' is open for 'postgres' until" in guard.plan(guarded, policy()).notes[-1]
    guard.end_override(guarded, number)
    with pytest.raises(psycopg.Error) as refused:
        guarded.execute("DROP TABLE app.kept")
    assert refused.value.sqlstate == "DBG03"
    short = guard.override(guarded, "drop", "over at once", lasts="1ms")
    over = "SELECT until < clock_timestamp() FROM dbsec_guard.overrides WHERE id = %s"
    retry.wait_until(lambda: guarded.execute(over, [short]).fetchone() == (True,), within_s=5, what="its end")
    guard.override(guarded, "drop", "somebody else's", role="pg_monitor")
    with pytest.raises(psycopg.Error) as refused:
        guarded.execute("DROP TABLE app.kept")
    assert refused.value.sqlstate == "DBG03"
    rows = guarded.execute("SELECT guard, role_name, reason, opened_by, ended_at IS NULL FROM dbsec_guard.overrides")
    assert rows.fetchone() == ("drop", "postgres", "INC-1: a 'reason'", "postgres", False)
    log = database.cluster.log.read_text()
    assert 'dbsec guard "drop": override 1 for "postgres" until' in log
    assert 'dbsec guard "drop": "postgres" passes by override 1, opened by "postgres" until' in log
    assert "INC-1: a 'reason'" in log
    assert 'dbsec guard: override 1 was ended by "postgres"' in log


def test_a_bad_override_is_a_usage_error(guarded: psycopg.Connection[Any]) -> None:
    for said, arguments in {
        "there is no guard": ("drops", "why"),
        "needs a reason": ("drop", "  "),
        "lasts up to 01:00:00": ("drop", "why", "2h"),
        "lasts up to": ("drop", "why", "-1min"),
        "invalid input syntax for type interval": ("drop", "why", "soon"),
        "there is no role": ("drop", "why", "1min", "nobody_here"),
    }.items():
        guard_name, why, *rest = arguments
        lasts, role = (*rest, "15min", None)[:2] if len(rest) < 2 else rest
        with pytest.raises(UsageError, match=said):
            guard.override(guarded, guard_name, why, lasts=str(lasts), role=role)
    with pytest.raises(UsageError, match="no override 7 is open"):
        guard.end_override(guarded, 7)
    guard.uninstall(guarded)
    with pytest.raises(ApplyError, match="3F000"):
        guard.override(guarded, "drop", "why")


# --- time limits --------------------------------------------------------------------------------------------------


def test_ddl_has_a_lock_timeout_where_nobody_set_one(guarded: psycopg.Connection[Any], database: Database) -> None:
    with connect(database.conninfo, autocommit=False) as reader:
        reader.execute("SELECT FROM app.big LIMIT 1")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            guarded.execute("ALTER TABLE app.big ADD COLUMN x int")
    assert guarded.execute("SHOW lock_timeout").fetchone() == ("0",), "it outlived the statement"
    for own_value in ("50ms", "0"):  # a session that says 0 means it
        guarded.execute(f"SET lock_timeout = '{own_value}'".encode())
        with guarded.transaction():
            guarded.execute("ALTER TABLE app.small ADD COLUMN IF NOT EXISTS x int")
            assert guarded.execute("SHOW lock_timeout").fetchone() == (own_value,)


@pytest.mark.pg(17, 18)
def test_a_transaction_with_ddl_ends_in_time(admin: psycopg.Connection[Any], database: Database) -> None:
    guard.install(admin, policy(transaction_timeout="100ms"))
    with connect(database.conninfo.but(options="-c statement_timeout=200ms")) as session:
        session.execute("BEGIN; ALTER TABLE app.small ADD COLUMN x int")
        assert session.execute("SHOW transaction_timeout").fetchone() == ("300ms",), "the statement's own first"
        with pytest.raises(psycopg.errors.TransactionTimeout):
            session.execute("SET LOCAL statement_timeout = 0; SELECT pg_sleep(20)")
        assert session.closed
    for own_value in ("1min", "0"):
        with connect(database.conninfo.but(options="-c statement_timeout=5s")) as session:
            session.execute(f"SET transaction_timeout = '{own_value}'".encode())
            with session.transaction():
                session.execute("ALTER TABLE app.small ADD COLUMN IF NOT EXISTS x int")
                assert session.execute("SHOW transaction_timeout").fetchone() == (own_value,)


def test_concurrently_outwaits_a_writer(admin: psycopg.Connection[Any], database: Database) -> None:
    """Whatever the guard has set ends with the first commit of CREATE INDEX CONCURRENTLY, or is not set for it."""
    guard.install(admin, policy(transaction_timeout="100ms", lock_timeout="100ms"))
    admin.execute("RESET statement_timeout")
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'virtualxid'"
    with connect(database.conninfo, autocommit=False) as writer, connect(database.conninfo) as look:
        writer.execute("UPDATE app.big SET note = 'w' WHERE id = 1")

        def end() -> None:
            retry.wait_until(lambda: look.execute(waits).fetchone() == (1,), within_s=10, what="a build that waits")
            look.execute("SELECT pg_sleep(0.5)")  # well beyond both limits
            writer.commit()

        ender = threading.Thread(target=end)
        ender.start()
        admin.execute("CREATE INDEX CONCURRENTLY i ON app.big (note)")
        ender.join()
    valid = admin.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'app.i'::regclass")
    assert valid.fetchone() == (True,)


SLOW = """
CREATE FUNCTION app.slow(int) RETURNS bool LANGUAGE plpgsql
  AS $$ BEGIN PERFORM pg_catalog.pg_sleep(0.4); RETURN true; END $$;
INSERT INTO app.small VALUES (1), (2);
ALTER TABLE app.small ADD CONSTRAINT slow CHECK (app.slow(id)) NOT VALID;
ALTER TABLE app.small ADD CONSTRAINT slower CHECK (app.slow(id)) NOT VALID
"""


def test_the_runner_and_its_long_statements_pass(
    admin: psycopg.Connection[Any], database: Database, tmp_path: Path
) -> None:
    """A VALIDATE that takes far longer than any limit of the guard's, by the runner and by hand."""
    admin.execute(SLOW)
    own.install(admin)
    guard.install(admin, policy(transaction_timeout="100ms", lock_timeout="100ms"))
    (tmp_path / "001_expand.sql").write_text(
        "-- dbsec: phase expand\nSET lock_timeout = '1s';\nALTER TABLE app.big ADD COLUMN x int;\n"
        "SET statement_timeout = '30min';\nALTER TABLE app.small VALIDATE CONSTRAINT slow;\n"
        "CREATE INDEX CONCURRENTLY big_x ON app.big (x);\n"
    )
    up(Target(tmp_path, lambda: connect(database.conninfo), Settings(), "", gates=False), Asked())
    with connect(database.conninfo) as bare:
        bare.execute("ALTER TABLE app.small VALIDATE CONSTRAINT slower")
    valid = "SELECT count(*) FROM pg_constraint WHERE convalidated AND conname LIKE 'slow%'"
    assert admin.execute(valid).fetchone() == (2,)
    assert admin.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'app.big_x'::regclass").fetchone() == (
        True,
    )


# --- dumps and the command ----------------------------------------------------------------------------------------


def _program(cluster: Cluster, name: str, conninfo: Conninfo, *argv: str | Path) -> str:
    found = cluster.instance.binaries
    assert conninfo.password is not None
    env = {**os.environ, **found.env, "PGPASSWORD": conninfo.password.reveal()}
    where = ["-h", "127.0.0.1", "-p", str(conninfo.port), "-U", conninfo.user, "-d", conninfo.dbname]
    done = subprocess.run([found.program(name), *where, *argv], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_dump_of_a_guarded_database_is_restored_with_its_guard(
    guarded: psycopg.Connection[Any], database: Database, tmp_path: Path
) -> None:
    name = f"{database.conninfo.dbname}_restored"
    dump = tmp_path / "dump"
    guarded.execute("INSERT INTO dbsec_guard.table_limits VALUES ('app.small', 7, 'by hand')")
    _program(database.cluster, "pg_dump", database.conninfo, "-Fc", "-f", dump)
    there = database.cluster.create_database(name)
    try:
        _program(database.cluster, "pg_restore", there, "--exit-on-error", "-j", "2", dump)
        with connect(there) as restored:
            assert restored.execute("SELECT count(*) FROM app.big, app.seen WHERE n = 2000").fetchone() == (2000,)
            assert guard.plan(restored, policy()).changes == ()
            assert outcomes(guard.selftest(restored), Outcome.FAIL, Outcome.ERROR) == set()
            # one table into a guarded database: its settings say 0, hence on the record
            restored.execute("SET statement_timeout = '5s'; DROP TABLE app.big CASCADE")
            for one in ("statement_timeout", "index"):
                guard.override(restored, one, "restoring app.big")
            _program(database.cluster, "pg_restore", there, "--exit-on-error", "-n", "app", "-t", "big", dump)
            assert restored.execute("SELECT count(*) FROM app.big").fetchone() == (2000,)
    finally:
        database.cluster.drop_database(name)


@pytest.mark.pg(17)
def test_the_command_plans_installs_proves_opens_and_removes(
    admin: psycopg.Connection[Any], database: Database, tmp_path: Path
) -> None:
    (tmp_path / "dbsec.toml").write_text("[migrations.guard]\nmax_table_size = '64kB'\n")
    env = {**os.environ, "DSN": database.conninfo.text()}

    def run(*argv: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "dbsec", "migrate", "guard", *argv, "--dsn", "env:DSN"]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    assert run("selftest")[0] == 3
    code, said = run("plan")
    assert (code, "create  schema dbsec_guard" in said) == (1, True)
    code, said = run("install")
    assert (code, "none of them made: --apply" in said) == (0, True)
    assert admin.execute("SELECT to_regnamespace('dbsec_guard')").fetchone() == (None,)
    assert run("install", "--apply")[0] == 0
    assert run("plan") == (0, "nothing to do\n")
    code, said = run("selftest")
    assert (code, "PASS  a rewrite: refused with DBG01" in said) == (0, True)
    admin.execute("ALTER EVENT TRIGGER dbsec_guard_7_rewrite DISABLE")
    code, said = run("selftest", "--format", "json")
    assert code == 1
    assert {p["name"]: p["outcome"] for p in json.loads(said)["result"]}["a rewrite"] == "fail"
    assert run("override", "drop")[0] == 2
    code, said = run("override", "drop", "--reason", "INC-2", "--lasts", "1min")
    opened = re.match(r"override (\d+) is open; to end it: dbsec migrate guard override \1 --end --dsn env:DSN\n", said)
    assert (code, bool(opened)) == (0, True), said
    assert opened is not None
    assert run("override", opened[1], "--end") == (0, f"override {opened[1]} is ended\n")
    assert run("uninstall")[0] == 0
    assert admin.execute("SELECT count(*) FROM dbsec_guard.overrides").fetchone() == (1,)
    assert run("uninstall", "--apply")[0] == 0
    assert admin.execute("SELECT to_regnamespace('dbsec_guard')").fetchone() == (None,)
