"""One statement on a real server, the way of its kind: what it waits for, what it never makes others wait for."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from tests.integration.runner_sessions import (
    ADD,
    LIMITS,
    SETUP,
    Fresh,
    Queue,
    another,
    behind,
    classified,
    columns,
    error_of,
    name,
    run,
)

from dbsec import retry
from dbsec.clock import SYSTEM
from dbsec.migrations import guard
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.runner import execute as runner
from dbsec.migrations.runner.blockers import Blocker, blockers
from dbsec.migrations.runner.classify import Kind
from dbsec.migrations.runner.limits import Limits
from dbsec.migrations.runner.locking import targets
from dbsec.migrations.runner.pursuit import NotYet, Pursuit
from dbsec.pg import connect
from dbsec.testing.clusters import Cluster
from dbsec.testing.scratch import Scratch

VERSIONS = pytest.mark.pg(15, 17, 18)


@pytest.fixture(scope="module")
def scratch(cluster: Cluster) -> Iterator[Scratch]:
    made = Scratch(cluster, f"runner_{secrets.token_hex(4)}")
    yield made
    made.drop()


@pytest.fixture
def database(scratch: Scratch, cluster: Cluster) -> Iterator[Fresh]:
    with scratch.fresh() as (conninfo, _):
        yield Fresh(cluster, conninfo)


@pytest.fixture
def session(database) -> Iterator[psycopg.Connection[Any]]:
    with connect(database.conninfo) as made:
        made.execute(SETUP.encode())
        yield made


# --- each kind


@VERSIONS
def test_a_short_statement_runs_and_commits_with_what_is_around_it(session):
    session.execute("CREATE TABLE app.done (step text)")
    seen = []

    @contextmanager
    def around() -> Iterator[None]:
        held = session.execute(
            "SELECT mode FROM pg_locks WHERE relation = 'app.users'::regclass AND pid = pg_backend_pid()"
        )
        seen.append({row[0] for row in held})
        yield
        session.execute("INSERT INTO app.done VALUES ('country')")

    ran = run(session, ADD, around=around)
    assert seen == [{"AccessExclusiveLock"}]
    assert "country" in columns(session)
    assert session.execute("SELECT * FROM app.done").fetchall() == [("country",)]
    assert (ran.turns, ran.lock_attempts) == (1, 1)


PATHS = ['"$user", public', "app"]
ALLOWED = LIMITS.model_copy(update={"allow_blocking": True})
KINDS = {
    "ALTER TABLE app.orders ADD CONSTRAINT o_fk FOREIGN KEY (user_id) REFERENCES app.users NOT VALID": Kind.SHORT,
    "ALTER TABLE app.users VALIDATE CONSTRAINT positive": Kind.LONG,
    "COMMENT ON TABLE app.users IS 'people'": Kind.LONG,
    "SELECT count(*) FROM app.users": Kind.LONG,
    "CREATE INDEX CONCURRENTLY users_phone ON app.users (phone)": Kind.CONCURRENT,
    "DROP INDEX CONCURRENTLY app.users_email": Kind.CONCURRENT,
    "REINDEX TABLE CONCURRENTLY app.users": Kind.CONCURRENT,
    "VACUUM app.users": Kind.CONCURRENT,
    "UPDATE app.users SET phone = NULL WHERE id = 1": Kind.ROWS,
    "CREATE TABLE app.countries (code text PRIMARY KEY)": Kind.FREE,
    "ALTER SEQUENCE app.numbers RESTART": Kind.FREE,
    "SET search_path = app": Kind.SESSION,
    "DO $$BEGIN ALTER TABLE app.users ADD COLUMN x int; END$$": Kind.SHORT,
    "SELECT app.alter_it()": Kind.SHORT,
    "DO $$BEGIN FOR n IN 1..3 LOOP UPDATE app.users SET phone = '' WHERE id = n; COMMIT; END LOOP; END$$": Kind.ROWS,
    "BEGIN; ALTER TABLE app.users ADD COLUMN z int; CREATE TABLE app.x (id int); COMMIT": Kind.TRANSACTION,
}


@VERSIONS
def test_each_kind_runs_and_leaves_the_session_as_it_was(session):
    prepared(session)
    session.execute("SET statement_timeout = '7s'")
    every_kind(session)


@VERSIONS
def test_each_kind_passes_the_guard(session):
    prepared(session)
    strict = {"max_table_size": "1B", "lock_timeout": "1ms", "transaction_timeout": "500ms", "search_paths": PATHS}
    guard.install(session, guard.Policy.of(strict, where="test"))
    refused = error_of(psycopg.Error, session.execute, "ALTER TABLE app.users ADD COLUMN no int")
    assert refused.sqlstate == "DBG05"  # it is there: this session has no statement_timeout
    every_kind(session)
    guarded = error_of(runner.StatementFailed, run, session, "ALTER TABLE app.users ALTER id TYPE numeric", ALLOWED)
    assert guarded.sqlstate == "DBG01"
    assert "app.users" in str(guarded)


def prepared(session: psycopg.Connection[Any]) -> None:
    session.execute("ALTER TABLE app.users ADD CONSTRAINT positive CHECK (id > 0) NOT VALID")
    session.execute("CREATE INDEX users_email ON app.users (email); CREATE SEQUENCE app.numbers")
    body = "'BEGIN ALTER TABLE app.users ADD COLUMN y int; END'"
    session.execute(f"CREATE FUNCTION app.alter_it() RETURNS void LANGUAGE plpgsql AS {body}".encode())


def every_kind(session: psycopg.Connection[Any]) -> None:
    names = ["lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"]

    def settings() -> list[Any]:
        return [session.execute("SELECT current_setting(%s)", (one,)).fetchone() for one in names]

    before = settings()
    for text, kind in KINDS.items():
        found = classified(session, text)
        assert found[-1].kind is kind, text
        if "alter_it" in text:
            assert [str(table) for table, _ in found[-1].locks] == ["app.users"]  # from the function's body
        run(session, text)
        assert settings() == before, text
    assert columns(session) >= {"x", "y", "z"}


def test_the_settings_of_a_file_count_where_they_are_stricter_or_meant_for_the_statement(session):
    session.execute("CREATE TABLE app.seen (kind text, lock text, statement text)")
    session.execute("ALTER TABLE app.users ADD CONSTRAINT positive CHECK (id > 0) NOT VALID")

    def times(text: str) -> tuple[str, str]:
        found: list[tuple[str, str]] = []

        @contextmanager
        def around() -> Iterator[None]:
            query = "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')"
            found.extend(session.execute(query).fetchall())
            yield

        run(session, text, Limits(short_s=5, long_s=60, own_wait_ms=10), around=around)
        return found[0]

    validate = "ALTER TABLE app.users VALIDATE CONSTRAINT positive"
    assert times(validate) == ("0", "1min")
    assert times(f"SET statement_timeout = '30min'; {validate}") == ("0", "30min")
    assert times(f"SET lock_timeout = '500ms'; {validate}") == ("500ms", "1min")
    assert times("ALTER TABLE app.users ADD a int") == ("10ms", "5s")
    assert times("SET statement_timeout = '30min'; ALTER TABLE app.users ADD b int") == ("10ms", "5s")
    assert times("SET statement_timeout = '1s'; ALTER TABLE app.users ADD c int") == ("10ms", "1s")
    assert times("SET statement_timeout = 0; ALTER TABLE app.users ADD d int") == ("10ms", "5s")
    concurrent = "CREATE INDEX CONCURRENTLY i ON app.users (email)"
    assert times(f"SET lock_timeout = '500ms'; SET statement_timeout = '9min'; {concurrent}") == ("0", "9min")


# --- who stands in the way


@VERSIONS
def test_a_blocker_is_never_queued_behind_and_the_statement_follows_when_it_leaves(session, database):
    told: list[list[Blocker]] = []
    with (
        another(database.conninfo, "SELECT id, 'a secret' FROM app.users WHERE phone <> '+49 30 1234'") as holder,
        Queue(database.conninfo, session.info.backend_pid) as queue,
        behind(lambda: run(session, ADD, told=lambda found: told.append(list(found)))) as ran,
        connect(database.conninfo) as reader,
    ):
        slowest, pid = 0.0, holder.info.backend_pid
        while len(told) < 2:
            began = time.monotonic()
            reader.execute("SELECT count(*) FROM app.users")
            slowest = max(slowest, time.monotonic() - began)
        holder.execute("ROLLBACK")
        found = ran.result(timeout=20)
    assert queue.looks > 100
    assert queue.behind == []
    assert slowest < 0.5  # as long as nobody is queued behind: it waited for one blocker of more than a second
    assert found.lock_attempts > 20
    assert found.turns == 1
    assert "country" in columns(session)
    (who,) = told[-1]
    seen = (who.pid, who.user, who.application_name, who.state)
    assert seen == (pid, "postgres", "service@blue", "idle in transaction")
    assert "secret" not in str(who)
    assert "1234" not in str(who)
    assert who.query.startswith("SELECT id")


def test_the_watcher_does_see_a_statement_that_queues(session, database):
    # the control of the test above: every holder counts as young, so that each turn waits for 100 ms
    queues = LIMITS.model_copy(update={"starving_s": 0.0, "old_ms": 1e9, "escalation_ms": (100,), "give_up_s": 1.2})
    with (
        another(database.conninfo, "SELECT 1 FROM app.users"),
        Queue(database.conninfo, session.info.backend_pid) as queue,
        behind(lambda: error_of(runner.LockNotTaken, run, session, ADD, queues)) as ran,
        connect(database.conninfo) as reader,
    ):
        while not ran.done():
            reader.execute("SELECT count(*) FROM app.users")
    assert queue.behind


def test_a_long_chase_writes_nothing_into_the_log_of_the_server(session, database):
    size = database.cluster.log.stat().st_size
    limits = LIMITS.model_copy(update={"give_up_s": 0.5})
    with another(database.conninfo, "SELECT 1 FROM app.users"):
        error_of(runner.LockNotTaken, run, session, ADD, limits)
    error_of(psycopg.errors.UndefinedFunction, session.execute, "SELECT this_is_the_end()")
    with database.cluster.log.open() as log:
        log.seek(size)
        errors = [line for line in log if "ERROR" in line]
    assert [line for line in errors if "this_is_the_end" in line]
    assert not [line for line in errors if "obtain lock" in line]


@VERSIONS
def test_a_blocker_that_never_ends_is_named_and_nothing_is_left(session, database):
    limits = LIMITS.model_copy(update={"give_up_s": 0.5})
    with another(database.conninfo, "UPDATE app.users SET phone = 'x' WHERE id = 1") as holder:
        with pytest.raises(runner.LockNotTaken) as caught:
            run(session, ADD, limits)
        pid = holder.info.backend_pid
    assert f"pid {pid} of 'postgres' (service@blue)" in str(caught.value)
    assert "'m.sql:1': ACCESS EXCLUSIVE on 'app.users'" in str(caught.value)
    assert "idle in transaction" in str(caught.value)
    assert caught.value.hint == f"SELECT pg_terminate_backend({pid})"
    assert [one.pid for one in caught.value.blockers] == [pid]
    assert "country" not in columns(session)
    assert session.info.transaction_status.name == "IDLE"


@VERSIONS
def test_blockers_are_ended_where_that_was_asked_for(session, database):
    limits = LIMITS.model_copy(update={"cancel_blockers": True, "cancel_after_s": 0.2})
    with (
        another(database.conninfo, "SELECT 1 FROM app.users") as idle,
        connect(database.conninfo.but(options="-c statement_timeout=30s")) as busy,
        behind(lambda: error_of(psycopg.errors.QueryCanceled, busy.execute, "SELECT pg_sleep(60) FROM app.users")),
    ):
        retry.wait_until(
            lambda: len(blockers(session, [(name("users"), 8)])) == 2,
            within_s=10,
            what="two blockers",
        )
        ran = run(session, ADD, limits)
        assert {one.pid for one in ran.cancelled} == {idle.info.backend_pid, busy.info.backend_pid}
        with pytest.raises(psycopg.errors.AdminShutdown):
            idle.execute("SELECT 1")
        idle.close()
    assert "country" in columns(session)


@VERSIONS
def test_nowait_gets_through_to_a_table_that_is_always_read(session, database):
    stop = threading.Event()

    def read() -> int:
        count = 0
        with connect(database.conninfo) as reader:
            while not stop.is_set():
                reader.execute("SELECT count(*) FROM app.users")
                count += 1
        return count

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read) for _ in range(8)]
        ran = run(session, ADD, Limits(starving_s=2, give_up_s=60))
        stop.set()
        assert sum(one.result() for one in readers) > 50
    assert ran.turns == 1
    assert "country" in columns(session)


@VERSIONS
def test_both_tables_of_a_foreign_key_are_taken_in_one_turn(session, database):
    text = "ALTER TABLE app.orders ADD CONSTRAINT o_fk FOREIGN KEY (user_id) REFERENCES app.users NOT VALID"
    limits = LIMITS.model_copy(update={"give_up_s": 0.5})
    with another(database.conninfo, "UPDATE app.users SET phone = 'x' WHERE id = 1") as holder:
        queued = Queue(database.conninfo, session.info.backend_pid)
        tried = behind(lambda: error_of(runner.LockNotTaken, run, session, text, limits))
        with queued as queue, connect(database.conninfo) as writer, tried as ran:
            while not ran.done():
                writer.execute("UPDATE app.orders SET user_id = 2 WHERE id = 2")
        assert queue.behind == []
        assert str(ran.result().blockers[0].pid) == str(holder.info.backend_pid)
    assert run(session, text).turns == 1


def test_what_others_hold_is_asked_for_first_and_the_rest_not_even_locked(session, database):
    wanted = [(name("orders"), LockMode.ACCESS_EXCLUSIVE), (name("users"), LockMode.ACCESS_EXCLUSIVE)]

    def pursuit() -> Pursuit:
        return Pursuit(session, "test", targets(session, wanted), LIMITS, SYSTEM)

    with another(database.conninfo, "SELECT 1 FROM app.users"):
        known = pursuit()
        error_of(NotYet, known.take, b"BEGIN", "10ms")
        session.execute("ROLLBACK")
        assert [one.name.name for one in known.found] == ["users", "orders"]  # it looked before
        learns = pursuit()
        learns.attempts = 1
        refused = error_of(NotYet, learns.take, b"BEGIN", "10ms")
        session.execute("ROLLBACK")
        learns.refused(str(refused))
        assert [one.name.name for one in learns.found] == ["users", "orders"]  # it was told


@VERSIONS
def test_every_partition_is_taken(session, database):
    session.execute(
        "CREATE TABLE app.events (id int, at int) PARTITION BY RANGE (at);"
        "CREATE TABLE app.events_1 PARTITION OF app.events FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE app.events_2 PARTITION OF app.events FOR VALUES FROM (10) TO (20)"
    )
    limits = LIMITS.model_copy(update={"give_up_s": 0.4})
    with another(database.conninfo, "SELECT 1 FROM app.events_2") as holder:
        with pytest.raises(runner.LockNotTaken) as caught:
            run(session, "ALTER TABLE app.events ADD COLUMN kind text", limits)
        assert caught.value.blockers[0].table == name("events_2")
        assert caught.value.blockers[0].pid == holder.info.backend_pid


@VERSIONS
def test_what_lock_table_cannot_take_is_looked_at_first(session, database):
    session.execute("CREATE VIEW app.people AS SELECT id, email FROM app.users")
    text = "CREATE OR REPLACE VIEW app.people AS SELECT id, email, phone FROM app.users"
    limits = LIMITS.model_copy(update={"give_up_s": 0.5})
    with (
        another(database.conninfo, "SELECT 1 FROM app.people") as holder,
        Queue(database.conninfo, session.info.backend_pid) as queue,
        connect(database.conninfo) as reader,
    ):
        with behind(lambda: error_of(runner.LockNotTaken, run, session, text, limits)) as ran:
            while not ran.done():
                reader.execute("SELECT count(*) FROM app.people")
        assert ran.result().blockers[0].pid == holder.info.backend_pid
    assert queue.behind == []
    run(session, text)
    assert "phone" in columns(session, "app.people")


@VERSIONS
def test_an_owner_without_the_right_to_lock_the_other_table_goes_on_by_timeout(session, database):
    session.execute(
        "DROP ROLE IF EXISTS c1_owner; CREATE ROLE c1_owner; GRANT USAGE, CREATE ON SCHEMA app TO c1_owner;"
        "ALTER TABLE app.orders OWNER TO c1_owner; GRANT REFERENCES ON app.users TO c1_owner"
    )
    text = "SET ROLE c1_owner; ALTER TABLE app.orders ADD FOREIGN KEY (user_id) REFERENCES app.users NOT VALID"
    limits = LIMITS.model_copy(update={"give_up_s": 0.5})
    part = classified(session, text)[-1]
    try:
        session.execute("SET ROLE c1_owner")
        with another(database.conninfo, "UPDATE app.users SET phone = 'x' WHERE id = 1") as holder:
            with pytest.raises(runner.LockNotTaken) as caught:
                runner.execute(session, part, limits)
            assert caught.value.blockers[0].pid == holder.info.backend_pid
        assert runner.execute(session, part, limits).turns == 1
    finally:
        session.execute("RESET ROLE; DROP OWNED BY c1_owner; DROP ROLE c1_owner")
