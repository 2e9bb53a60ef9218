"""The runner under faults: a full lock table, deadlocks, invalid indexes, prepared transactions, a lost connection."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from tests.integration.runner_sessions import (
    ADD,
    LIMITS,
    SETUP,
    Fresh,
    another,
    behind,
    classified,
    columns,
    error_of,
    name,
    run,
)

from dbsec import files, process, retry
from dbsec.errors import ConnectError, UsageError
from dbsec.lab import ports
from dbsec.migrations.runner import execute as runner
from dbsec.migrations.runner.blockers import Blocker, blockers
from dbsec.migrations.runner.limits import Limits
from dbsec.pg import Conninfo, connect
from dbsec.testing.clusters import Cluster
from dbsec.testing.proxy import Proxy
from dbsec.testing.scratch import Scratch

VERSIONS = pytest.mark.pg(15, 17, 18)
HOLD = "UPDATE app.users SET phone = 'x' WHERE id = 1"
CREATE = "CREATE INDEX CONCURRENTLY users_phone ON app.users (phone)"


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


@pytest.fixture
def private(cluster_factory: Callable[..., Any]) -> Iterator[Any]:
    """A server of its own, by ``private(setting=…)``."""
    made: list[Any] = []

    def create(**settings: str) -> Any:
        made.append(cluster_factory(**settings))
        return made[-1]

    yield create
    for one in made:
        one.instance.stop()


def valid(session: psycopg.Connection[Any], index: str = "app.users_phone") -> bool | None:
    row = session.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (index,)).fetchone()
    return row[0] if row else None


def waits(session: psycopg.Connection[Any], pid: int) -> bool:
    row = session.execute("SELECT cardinality(pg_blocking_pids(%s))", (pid,)).fetchone()
    return row is not None and row[0] > 0


# --- refused


@VERSIONS
def test_what_postgresql_refuses_fails_at_once_and_shows_no_row(session):
    session.execute("UPDATE app.users SET phone = '+49 30 987654' WHERE id = 7")
    session.execute("ALTER TABLE app.users ADD CONSTRAINT short CHECK (length(phone) < 10) NOT VALID")
    failed = error_of(runner.StatementFailed, run, session, "ALTER TABLE app.users VALIDATE CONSTRAINT short")
    assert (failed.sqlstate, failed.place) == ("23514", "m.sql:1")
    assert str(failed).startswith("'m.sql:1': check constraint \"short\"")
    unique = "CREATE UNIQUE INDEX CONCURRENTLY twice ON app.users ((phone <> ''))"
    cast = "UPDATE app.users SET id = phone::bigint WHERE id = 7"
    raised = "DO $$BEGIN RAISE EXCEPTION '%', (SELECT phone FROM app.users WHERE id = 7); END$$"
    for text, state in ((unique, "23505"), (cast, "22P02"), (raised, "P0001")):
        failed = error_of(runner.StatementFailed, run, session, text)
        assert failed.sqlstate == state
        assert failed.hint
        assert "987654" not in f"{failed} {failed.hint} {failed!r} {failed.__cause__}"
    assert valid(session, "app.twice") is None  # a unique index that is invalid still refuses writes: it is gone


@VERSIONS
def test_work_under_a_lock_is_refused_by_the_name_of_its_rule(session):
    text = "CREATE INDEX users_phone ON app.users (phone)"
    refused = error_of(runner.BlockingRefused, run, session, text)
    assert "MIG101 index-without-concurrently" in str(refused)
    together = f"BEGIN; {ADD} ALTER TABLE app.users VALIDATE CONSTRAINT positive; COMMIT"
    session.execute("ALTER TABLE app.users ADD CONSTRAINT positive CHECK (id > 0) NOT VALID")
    refused = error_of(runner.BlockingRefused, run, session, together)
    assert "scan of 'app.users' while the transaction holds ACCESS EXCLUSIVE on 'app.users'" in str(refused)
    prepared = error_of(runner.BlockingRefused, run, session, f"BEGIN; {ADD} PREPARE TRANSACTION 'x'")
    assert "keeps its locks" in str(prepared)
    assert columns(session) == {"id", "email", "phone"}
    assert run(session, text, Limits(small_bytes=1 << 20)).turns == 1  # nobody notices it on a small table
    run(
        session,
        "ALTER TABLE app.users ALTER COLUMN id TYPE numeric",
        LIMITS.model_copy(update={"allow_blocking": True}),
    )


@VERSIONS
def test_a_block_is_all_or_nothing(session):
    block = f"BEGIN; {ADD} SAVEPOINT a; CREATE TABLE app.x (id int); ROLLBACK TO a; {{}}; COMMIT"
    failed = error_of(runner.StatementFailed, run, session, block.format("ALTER TABLE app.orders ADD COLUMN id int"))
    assert failed.sqlstate == "42701"
    assert "country" not in columns(session)
    assert run(session, block.format("ALTER TABLE app.orders ADD COLUMN kind text")).turns == 1
    assert "country" in columns(session)
    assert session.execute("SELECT to_regclass('app.x')").fetchone() == (None,)
    run(session, "BEGIN; ALTER TABLE app.users ADD COLUMN gone int; ROLLBACK")
    assert "gone" not in columns(session)
    error_of(UsageError, run, session, "BEGIN; ALTER TABLE app.users ADD COLUMN gone int")
    inside = error_of(runner.StatementFailed, run, session, f"BEGIN; {CREATE}; COMMIT")
    assert inside.sqlstate == "25001"


def test_a_file_that_cannot_be_read_is_not_passed_over(session):
    with pytest.raises(UsageError, match="syntax error"):
        classified(session, "SELECT 1; ALTER TABEL app.users ADD COLUMN x int")


# --- faults


@VERSIONS
def test_a_full_lock_table_is_told_and_nothing_is_half_done(private):
    server = private(max_locks_per_transaction="10", max_connections="10", superuser_reserved_connections="1")
    with connect(server.create_database("full")) as session:
        session.execute("CREATE SCHEMA app; CREATE TABLE app.t (id int, at int) PARTITION BY RANGE (at)")
        for at in range(0, 420, 30):
            parts = "; ".join(
                f"CREATE TABLE app.t_{n} PARTITION OF app.t FOR VALUES FROM ({n}) TO ({n + 1})"
                for n in range(at, at + 30)
            )
            session.execute(parts.encode())
        failed = error_of(runner.StatementFailed, run, session, "ALTER TABLE app.t ADD COLUMN kind text")
        assert failed.sqlstate == "53200"
        assert "max_locks_per_transaction" in failed.hint
        assert "kind" not in columns(session, "app.t")
        assert session.info.transaction_status.name == "IDLE"
        held = session.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'relation' AND mode ~ 'Exclusive'")
        assert held.fetchone() == (0,)


@VERSIONS
def test_a_deadlock_is_tried_again(session, database):
    session.execute(f"ALTER DATABASE {session.info.dbname} SET deadlock_timeout = '100ms'".encode())
    text = "BEGIN; UPDATE app.users SET phone = '1' WHERE id = 1; UPDATE app.users SET phone = '1' WHERE id = 2; COMMIT"
    limits = LIMITS.model_copy(update={"escalation_ms": (5000,)})
    with connect(database.conninfo) as ours, another(database.conninfo, "SET deadlock_timeout = '60s'") as other:
        other.execute("UPDATE app.users SET phone = '2' WHERE id = 2")
        pid = ours.info.backend_pid
        with behind(lambda: run(ours, text, limits)) as ran:
            retry.wait_until(lambda: waits(session, pid), within_s=10, what="our second UPDATE")
            other.execute("UPDATE app.users SET phone = '2' WHERE id = 1")  # closes the circle; ours is the victim
            other.execute("COMMIT")
        assert ran.result().turns == 2
    assert session.execute("SELECT phone FROM app.users WHERE id IN (1, 2)").fetchall() == [("1",), ("1",)]


@VERSIONS
def test_an_invalid_index_is_found_and_built_again(session, database):
    with another(database.conninfo, HOLD):
        session.execute("SET statement_timeout = '200ms'")
        error_of(psycopg.errors.QueryCanceled, session.execute, CREATE)
        session.execute("RESET statement_timeout")
    assert valid(session) is False
    ran = run(session, CREATE.replace("CONCURRENTLY", "CONCURRENTLY IF NOT EXISTS"))
    assert ran.repaired == ("app.users_phone",)
    assert valid(session) is True
    assert run(session, CREATE, again=True).already


@VERSIONS
def test_what_our_own_failed_build_left_is_dropped(session, database):
    limits = LIMITS.model_copy(update={"long_s": 0.3})
    with another(database.conninfo, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT 1 FROM app.orders"):
        failed = error_of(runner.StatementFailed, run, session, CREATE, limits)
    assert failed.sqlstate == "57014"
    assert valid(session) is None


@VERSIONS
def test_an_index_of_that_name_must_be_the_one_that_is_asked_for(session):
    session.execute("CREATE INDEX users_phone ON app.users (lower(phone)) WHERE email <> ''")
    again = "CREATE INDEX CONCURRENTLY IF NOT EXISTS users_phone ON app.users {}"
    assert run(session, again.format("(lower( phone)) WHERE users.email <> ''::text")).already
    for other in (
        "(phone)",
        "(lower(phone))",
        "(lower(phone) DESC) WHERE email <> ''",
        "(lower(email)) WHERE email <> ''",
    ):
        failed = error_of(runner.StatementFailed, run, session, again.format(other))
        assert failed.sqlstate == "42P07"
        assert "lower(phone)" in str(failed)
    session.execute("CREATE INDEX orders_user ON app.orders (user_id)")
    elsewhere = "CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_user ON app.users (phone)"
    assert "on 'app.orders'" in str(error_of(runner.StatementFailed, run, session, elsewhere))


@VERSIONS
def test_an_index_that_somebody_else_builds_now_is_not_dropped(session, database):
    with (
        connect(database.conninfo) as builder,
        connect(database.conninfo) as ours,
        another(database.conninfo, HOLD) as holder,
        behind(lambda: builder.execute(CREATE.encode())),
    ):
        pid = builder.info.backend_pid
        retry.wait_until(lambda: valid(session) is False and waits(session, pid), within_s=10, what="the other build")
        told: list[list[Blocker]] = []
        with behind(lambda: run(ours, CREATE, again=True, told=lambda found: told.append(list(found)))) as ran:
            retry.wait_until(lambda: bool(told), within_s=10, what="our wait for it")
            holder.execute("ROLLBACK")
        assert ran.result().already
        assert pid in {one.pid for one in told[0]}
    assert valid(session)


@VERSIONS
def test_leftovers_of_a_reindex_are_dropped(session, database):
    session.execute("CREATE INDEX users_phone ON app.users (phone)")
    with another(database.conninfo, HOLD):
        session.execute("SET statement_timeout = '200ms'")
        error_of(psycopg.errors.QueryCanceled, session.execute, "REINDEX INDEX CONCURRENTLY app.users_phone")
        session.execute("RESET statement_timeout")
    assert valid(session, "app.users_phone_ccnew") is False
    ran = run(session, "REINDEX INDEX CONCURRENTLY app.users_phone")
    assert ran.repaired == ("app.users_phone_ccnew",)
    assert valid(session, "app.users_phone_ccnew") is None


@VERSIONS
def test_a_detach_that_broke_off_is_finalized(session, database):
    session.execute(
        "CREATE TABLE app.t (id int) PARTITION BY RANGE (id);"
        "CREATE TABLE app.t_1 PARTITION OF app.t FOR VALUES FROM (1) TO (2);"
        "CREATE TABLE app.t_2 PARTITION OF app.t FOR VALUES FROM (2) TO (3)"
    )
    detach = "ALTER TABLE app.t DETACH PARTITION app.t_1 CONCURRENTLY"
    with another(database.conninfo, "SELECT 1 FROM app.t"):
        session.execute("SET statement_timeout = '200ms'")
        error_of(psycopg.errors.QueryCanceled, session.execute, detach)
        session.execute("RESET statement_timeout")
    failed = error_of(runner.StatementFailed, run, session, detach.replace("t_1", "t_2"))
    assert failed.hint == 'ALTER TABLE "app"."t" DETACH PARTITION "app"."t_1" FINALIZE'
    assert run(session, detach).repaired == ("app.t_1",)
    assert session.execute("SELECT count(*) FROM pg_inherits").fetchone() == (1,)
    assert run(session, detach, again=True).already


@VERSIONS
def test_a_build_that_waits_for_a_snapshot_tells_whose(session, database):
    told: list[list[Blocker]] = []
    snapshot = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT 1 FROM app.orders")
    with another(database.conninfo, *snapshot) as holder:
        pid = holder.info.backend_pid
        how = {"told": lambda found: told.append(list(found)), "watch": lambda: connect(database.conninfo)}
        with behind(lambda: run(session, CREATE, **how)):
            retry.wait_until(lambda: bool(told), within_s=20, what="somebody to be told")
            holder.execute("ROLLBACK")
    assert [one.pid for one in told[0]] == [pid]
    assert told[0][0].application_name == "service@blue"
    assert valid(session)


@VERSIONS
def test_a_prepared_transaction_is_named_with_what_ends_it(private):
    server = private(max_prepared_transactions="5")
    with connect(server.create_database("prepared")) as session:
        session.execute(SETUP.encode())
        session.execute("BEGIN")
        session.execute(HOLD)
        session.execute("PREPARE TRANSACTION 'it''s stuck'")
        limits = Limits(give_up_s=0.5, cancel_blockers=True, cancel_after_s=0)
        gone = error_of(runner.LockNotTaken, run, session, ADD, limits)
        assert "prepared transaction 'it's stuck' of 'postgres'" in str(gone)
        assert gone.hint.startswith("ROLLBACK PREPARED 'it''s stuck'")
        session.execute("SET statement_timeout = '20s'")
        pid = session.info.backend_pid
        with (
            connect(server.admin.but(dbname="prepared")) as other,
            behind(lambda: error_of(psycopg.errors.QueryCanceled, session.execute, CREATE)),
        ):
            retry.wait_until(lambda: waits(other, pid), within_s=10, what="the build")
            assert [one.gid for one in blockers(other, pid)] == ["it's stuck"]
            session.cancel_safe()
        session.execute("ROLLBACK PREPARED 'it''s stuck'")
        assert run(session, ADD).turns == 1


def test_an_autovacuum_gives_way(private):
    server = private(autovacuum_naptime="1s", autovacuum_vacuum_cost_limit="1", autovacuum_vacuum_cost_delay="100ms")
    with connect(server.create_database("busy")) as session:
        session.execute(SETUP.encode())
        # slow enough to outlive our patience: only its giving way lets us through
        session.execute("INSERT INTO app.users SELECT n, repeat('x', 500), '' FROM generate_series(2000, 12000) AS n")
        session.execute("UPDATE app.users SET phone = 'x'")
        wanted = [(name("users"), 8)]
        retry.wait_until(
            lambda: any(b.autovacuum for b in blockers(session, wanted)), within_s=60, what="an autovacuum"
        )
        ran = run(session, ADD)
        assert ran.turns == 1
        assert "country" in columns(session)


# --- the connection


@VERSIONS
def test_a_connection_that_is_lost_says_what_is_known(session, database):
    def ending(text: str) -> runner.ConnectionLost:
        with connect(database.conninfo) as ours, another(database.conninfo, HOLD):
            pid = ours.info.backend_pid
            limits = LIMITS.model_copy(update={"escalation_ms": (20_000,)})
            with behind(lambda: error_of(runner.ConnectionLost, run, ours, text, limits)) as ran:
                retry.wait_until(lambda: waits(session, pid), within_s=10, what="our wait")
                session.execute("SELECT pg_terminate_backend(%s)", (pid,))
            return ran.result()

    lost = ending("UPDATE app.users SET phone = ''")
    assert (lost.applied, lost.sqlstate, lost.hint) == (False, "57P01", "dbsec migrate resume")
    assert "nothing of it was applied" in str(lost)
    lost = ending(CREATE)
    assert lost.applied is None
    assert run(session, CREATE).repaired == ("app.users_phone",)


def test_a_cut_in_the_commit_leaves_it_unknown(session, database):
    with Proxy(database.conninfo.port) as proxy, connect(database.conninfo.but(port=proxy.port)) as ours:

        @contextmanager
        def around() -> Iterator[None]:
            yield
            proxy.cut()

        lost = error_of(runner.ConnectionLost, run, ours, ADD, around=around)
    assert lost.applied is None
    assert "country" not in columns(session)


@pytest.fixture
def pooled(database) -> Iterator[Conninfo]:
    """PgBouncer in transaction mode before the test's database."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        reason = "pgbouncer is not installed: make setup-extra"
        pytest.fail(reason) if os.environ.get("DBSEC_REQUIRE") == "all" else pytest.skip(reason)
    folder, direct = database.cluster.instance.data.parent, database.conninfo
    account = database.cluster.account
    owner = None if account.is_current else (account.uid, account.gid)
    (port,) = ports.free(1)
    pool = f"host=127.0.0.1 port={direct.port} dbname={direct.dbname}"
    auth = f"auth_type = scram-sha-256\nauth_file = {folder}/runner.txt\nunix_socket_dir =\npool_mode = transaction\n"
    text = f"[databases]\nown = {pool}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n{auth}"
    files.write_atomic(folder / "runner.txt", f'"postgres" "{direct.password.reveal()}"\n', owner=owner)
    files.write_atomic(folder / "runner.ini", text, owner=owner)
    argv = [program, folder / "runner.ini"]
    running = process.spawn(argv, cwd=folder, log=folder / "runner.log", account=account)
    retry.wait_until(lambda: ports.taken(port), within_s=10, what="pgbouncer")
    yield direct.but(port=port, dbname="own")
    process.stop(running)


def test_a_pool_in_transaction_mode_is_refused(session, pooled):
    part = classified(session, ADD)[0]
    with connect(pooled) as through:
        refused = error_of(ConnectError, runner.execute, through, part, LIMITS)
        assert "a connection pooler stands between" in str(refused)
    assert "country" not in columns(session)
    session.execute("BEGIN")
    error_of(UsageError, runner.execute, session, part, LIMITS)
    session.execute("ROLLBACK")


def test_what_is_around_it_is_left_after_the_rollback(session):
    session.execute("CREATE TABLE app.done (step text)")
    seen: list[str] = []

    @contextmanager
    def around() -> Iterator[None]:
        session.execute("INSERT INTO app.done VALUES ('begun')")
        try:
            yield
        except psycopg.Error:
            seen.append(session.info.transaction_status.name)
            raise

    error_of(runner.StatementFailed, run, session, "ALTER TABLE app.users ADD COLUMN id int", around=around)
    assert seen == ["IDLE"]
    assert session.execute("SELECT count(*) FROM app.done").fetchone() == (0,)


def test_a_transaction_that_is_broken_beside_the_statement_is_no_success(session):
    @contextmanager
    def around() -> Iterator[None]:
        yield
        error_of(psycopg.errors.UndefinedTable, session.execute, "SELECT * FROM app.nowhere")

    failed = error_of(runner.StatementFailed, run, session, ADD, around=around)
    assert failed.sqlstate == "25P02"
    assert "country" not in columns(session)


# --- what a function says


LOUD = """
CREATE FUNCTION app.loud() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE 'bad ssn %', old.phone USING ERRCODE = '{}', TABLE = old.phone, HINT = old.phone; END$$;
CREATE TRIGGER loud BEFORE UPDATE ON app.users FOR EACH ROW EXECUTE FUNCTION app.loud();
"""


@VERSIONS
@pytest.mark.parametrize("state", ["23514", "42501", "57014", "P0001"])
def test_what_a_function_says_of_a_row_is_not_shown(session, state):
    session.execute("UPDATE app.users SET phone = '987654' WHERE id = 7")
    session.execute(LOUD.format(state).encode())
    failed = error_of(runner.StatementFailed, run, session, "UPDATE app.users SET email = '' WHERE id = 7")
    assert str(failed) == f"'m.sql:1': {state}"
    assert "the server's log" in failed.hint
    assert "987654" not in f"{failed.hint} {failed!r}"
    built = "DO $$BEGIN EXECUTE (SELECT 'TABLE t' || phone FROM app.users WHERE id = 7); END$$"
    failed = error_of(runner.StatementFailed, run, session, built)
    assert (str(failed), "987654" in failed.hint) == ("'m.sql:1': 42P01", False)


@VERSIONS
def test_what_dbsec_itself_refuses_stays_readable(session):
    guard = "DO $$BEGIN RAISE 'no rewrite of app.users' USING ERRCODE = 'DBG01', HINT = 'write it anew'; END$$"
    failed = error_of(runner.StatementFailed, run, session, guard)
    assert (str(failed), failed.hint) == ("'m.sql:1': no rewrite of app.users (DBG01)", "write it anew")
    session.execute(LOUD.format("23514").replace("loud", "zz_dbsec_users").replace("%', old.phone", "'").encode())
    failed = error_of(runner.StatementFailed, run, session, "UPDATE app.users SET email = '' WHERE id = 7")
    assert str(failed).startswith("'m.sql:1': bad ssn  (23514)")


# --- a statement without IF EXISTS that a killed run began


def test_a_database_that_a_killed_run_made_says_what_to_do(session):
    name = f"made_{secrets.token_hex(4)}"
    session.execute(f"CREATE DATABASE {name}".encode())
    failed = error_of(runner.StatementFailed, run, session, f"CREATE DATABASE {name}", again=True)
    assert failed.sqlstate == "42P04"
    assert "take the statement out of the file" in failed.hint
    run(session, f"DROP DATABASE {name}")
    failed = error_of(runner.StatementFailed, run, session, f"DROP DATABASE {name}", again=True)
    assert (failed.sqlstate, "it is gone" in failed.hint) == ("3D000", True)
