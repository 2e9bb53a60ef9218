"""db/migrations on real servers: expand, backfill and contract beside the old release, and the guards' vetoes."""

from __future__ import annotations

import os
import secrets
import subprocess
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

from dbsec.pg import Conninfo, connect
from dbsec.roles.accounts import set_password
from dbsec.roles.desired import Model
from dbsec.roles.diff import apply, plan
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster

pytestmark = pytest.mark.pg(15, 17, 18)

ROOT = Path(__file__).resolve().parents[2]
MIGRATIONS = ROOT / "db" / "migrations"
PASSWORD = Secret("a-password-of-a-test-login")
USERS = 2500


class Database(Protocol):
    """What the fixture ``database`` gives."""

    cluster: Cluster
    conninfo: Conninfo


def _psql(cluster: Cluster, conninfo: Conninfo, file: Path) -> str:
    """Run a file as a team would: psql, one transaction a statement."""
    found = cluster.instance.binaries
    url = f"host=127.0.0.1 port={conninfo.port} user={conninfo.user} dbname={conninfo.dbname}"
    assert conninfo.password is not None
    env = {**os.environ, **found.env, "PGPASSWORD": conninfo.password.reveal()}
    argv = [str(found.program("psql")), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url, "-f", str(file)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def _schema(conninfo: Conninfo) -> None:
    with connect(conninfo) as admin:
        admin.execute((ROOT / "app" / "schema.sql").read_bytes())
        admin.execute("INSERT INTO app.tenants VALUES (DEFAULT, 'acme', 'Acme', sha256('k'))")
        admin.execute(
            "INSERT INTO app.users (tenant_id, name, email, phone)"
            " SELECT t.id, 'n', ' User' || i || '@Example.COM', '+' || i FROM app.tenants t, generate_series(1, %s) i",
            [USERS],
        )


def _backfill(session: psycopg.Connection[Any]) -> list[int]:
    """Walk 002 by key as its runner will; returns the rows of each batch."""
    job = tomllib.loads((MIGRATIONS / "002_backfill_batched.toml").read_text())
    batch = (
        f"WITH batch AS (SELECT {job['key']} FROM {job['table']} WHERE {job['key']} > %s AND {job['where']}"
        f" ORDER BY {job['key']} LIMIT {job['batch_rows']}),"
        f" done AS (UPDATE {job['table']} t SET {job['set']} FROM batch WHERE t.{job['key']} = batch.{job['key']}"
        f" RETURNING t.{job['key']}) SELECT count(*), max({job['key']}) FROM done"
    )
    last = 0
    sizes: list[int] = []
    while True:
        count, top = session.execute(batch.encode(), [last]).fetchone() or (0, None)
        if top is None:
            return sizes
        last = top
        sizes.append(count)


INSERT_OF_THE_OLD_RELEASE = """
INSERT INTO app.users (tenant_id, name, email, phone) SELECT id, 'new', ' New@X ', %s FROM app.tenants
"""


def test_expand_backfill_contract_and_all_the_way_back(database: Database) -> None:
    _schema(database.conninfo)

    def run(name: str) -> None:
        _psql(database.cluster, database.conninfo, MIGRATIONS / name)

    with connect(database.conninfo) as session:
        shape = "SELECT attname, attnotnull FROM pg_attribute WHERE attrelid = 'app.users'::regclass AND attnum > 0"
        before = session.execute((shape + " AND NOT attisdropped").encode()).fetchall()
        for _ in range(2):  # a file may be run again
            run("001_expand_add_nullable_col.sql")
        session.execute(INSERT_OF_THE_OLD_RELEASE, ["+a"])
        assert _backfill(session) == [1000, 1000, 500]
        assert _backfill(session) == []
        for _ in range(2):
            run("003_contract_set_not_null.sql")
        session.execute(INSERT_OF_THE_OLD_RELEASE, ["+b"])
        session.execute("UPDATE app.users SET email = 'Other@X' WHERE id = 1")
        wrong = "SELECT count(*) FROM app.users WHERE email_normalized <> lower(btrim(email))"
        assert session.execute(wrong).fetchone() == (0,)
        assert session.execute("SELECT count(*) FROM app.users").fetchone() == (USERS + 2,)
        left = session.execute("SELECT count(*) FROM pg_constraint WHERE conname = 'users_email_normalized_present'")
        assert left.fetchone() == (0,)
        for name in ("003_contract_set_not_null", "002_backfill_batched", "001_expand_add_nullable_col"):
            run(f"{name}.down.sql")
        assert session.execute((shape + " AND NOT attisdropped").encode()).fetchall() == before


def test_no_row_can_miss_it_after_the_contract(database: Database) -> None:
    _schema(database.conninfo)
    _psql(database.cluster, database.conninfo, MIGRATIONS / "001_expand_add_nullable_col.sql")
    with connect(database.conninfo) as session:
        _backfill(session)
    _psql(database.cluster, database.conninfo, MIGRATIONS / "003_contract_set_not_null.sql")
    with connect(database.conninfo) as session:
        session.execute("UPDATE app.users SET email_normalized = NULL WHERE id = 1")
        assert session.execute("SELECT email_normalized FROM app.users WHERE id = 1").fetchone() == (
            "user1@example.com",
        )
        session.execute("DROP TRIGGER users_normalize_email ON app.users")
        with pytest.raises(psycopg.errors.NotNullViolation):
            session.execute(INSERT_OF_THE_OLD_RELEASE, ["+c"])


def test_the_contract_is_refused_while_rows_are_missing(database: Database) -> None:
    _schema(database.conninfo)
    _psql(database.cluster, database.conninfo, MIGRATIONS / "001_expand_add_nullable_col.sql")
    with pytest.raises(AssertionError, match="is violated by some row"):
        _psql(database.cluster, database.conninfo, MIGRATIONS / "003_contract_set_not_null.sql")
    with connect(database.conninfo) as session:
        _backfill(session)
    _psql(database.cluster, database.conninfo, MIGRATIONS / "003_contract_set_not_null.sql")


def test_set_not_null_does_not_read_the_table(database: Database) -> None:
    """PostgreSQL itself says that the constraint is proof enough."""
    _schema(database.conninfo)
    _psql(database.cluster, database.conninfo, MIGRATIONS / "001_expand_add_nullable_col.sql")
    with connect(database.conninfo) as session:
        _backfill(session)
    debug = database.conninfo.but(options="-c client_min_messages=debug1")
    script = MIGRATIONS / "003_contract_set_not_null.sql"
    said: list[str] = []
    with connect(debug) as session:
        session.add_notice_handler(lambda d: said.append(d.message_primary or ""))
        for statement in script.read_text().split(";\n"):
            session.execute(statement.encode())
    proofs = [text for text in said if "sufficient to prove that it does not contain nulls" in text]
    assert len(proofs) == 1, said
    assert [text for text in said if text.startswith("verifying table")] == ['verifying table "users"'], said


def test_a_migration_does_not_queue_behind_a_reader(database: Database) -> None:
    """Whoever cannot have the lock goes away after half a second, instead of stalling the service."""
    _schema(database.conninfo)
    with connect(database.conninfo, autocommit=False) as reader:
        reader.execute("SELECT FROM app.users LIMIT 1")
        with pytest.raises(AssertionError, match="lock timeout"):
            _psql(database.cluster, database.conninfo, MIGRATIONS / "001_expand_add_nullable_col.sql")


def test_every_migration_says_its_phase_and_has_a_way_back() -> None:
    phases = {"expand": "001", "backfill": "002", "contract": "003"}
    for phase, number in phases.items():
        (file,) = [f for f in MIGRATIONS.glob(f"{number}_*") if not f.name.endswith(".down.sql")]
        first = file.read_text().splitlines()[0]
        assert first.lstrip("-# ") == f"dbsec: phase {phase}"
        assert (MIGRATIONS / f"{file.stem}.down.sql").exists()


# --- the guards --------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(database: Database) -> Conninfo:
    return _guarded(database.conninfo)


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Conninfo]:
    """One guarded database for all that is refused, which changes nothing, and for all that passes, in that order."""
    name = f"t_{secrets.token_hex(4)}"
    yield _guarded(cluster.create_database(name))
    cluster.drop_database(name)


def _guarded(conninfo: Conninfo) -> Conninfo:
    """Put the reference schema under the guards, with 64 kB for "big": the table of users has more."""
    _schema(conninfo)
    text = (MIGRATIONS / "guardrails.sql").read_text()
    assert text.count("'100MB'") == 3
    with connect(conninfo) as session:
        for _ in range(2):  # again as often as you like
            session.execute(text.replace("'100MB'", "'64kB'").encode())
        session.execute("CREATE TABLE app.small (id int, note text)")
        size = session.execute("SELECT pg_table_size('app.users') > 65536, pg_table_size('app.small') < 65536")
        assert size.fetchone() == (True, True)
    return conninfo


REFUSED = {
    "a volatile default": ("DBG01", "ALTER TABLE app.users ADD COLUMN x float DEFAULT random()"),
    "another type": ("DBG01", "ALTER TABLE app.users ALTER COLUMN name TYPE varchar(9)"),
    "a rewrite in a block": ("DBG01", "DO $$ BEGIN EXECUTE 'ALTER TABLE app.users ALTER name TYPE char(99)'; END $$"),
    "an index": ("DBG02", "CREATE INDEX i ON app.users (name)"),
    "an index without a name": ("DBG02", "CREATE INDEX ON app.users (name)"),
    "a unique index": ("DBG02", 'create  unique\nindex if not exists "I" on only "app" . users (id)'),
    "an index behind a comment": ("DBG02", "/* CONCURRENTLY */ CREATE INDEX /* x */ i -- on\n ON app.users (name)"),
    "an index by search_path": ("DBG02", "SET search_path = app; CREATE INDEX i ON users (name)"),
    "the second index": ("DBG02", "CREATE INDEX j ON app.small (id); CREATE INDEX i ON app.users (name)"),
    "an index in a block": ("DBG02", "DO $$ BEGIN EXECUTE 'CREATE' || ' INDEX i ON app.users (name)'; END $$"),
    "an index in a savepoint": ("DBG02", "BEGIN; SAVEPOINT s; CREATE INDEX i ON app.users (name)"),
    "a table": ("DBG03", "DROP TABLE app.orders"),
    "a table by cascade": ("DBG03", "DROP SCHEMA app CASCADE"),
    "a table in a block": ("DBG03", "DO $$ BEGIN DROP TABLE app.idempotency_keys; END $$"),
    "a table by a replica": ("DBG03", "SET session_replication_role = replica; DROP TABLE app.orders"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_guard_refuses(shared: Conninfo, case: str) -> None:
    sqlstate, statement = REFUSED[case]
    with connect(shared) as session:
        with pytest.raises(psycopg.Error) as refused:
            session.execute(statement.encode())
        session.rollback()
        assert refused.value.sqlstate == sqlstate, refused.value
        assert refused.value.diag.message_hint
        assert session.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid").fetchone() == (0,)


ALLOWED = {
    "a constant default": "ALTER TABLE app.users ADD COLUMN x int DEFAULT 1",
    "a wider type": "ALTER TABLE app.users ALTER COLUMN name TYPE varchar",
    "a rewrite of a small table": "ALTER TABLE app.small ADD COLUMN x float DEFAULT random()",
    "a rewrite of a temporary table": (
        "CREATE TEMP TABLE t AS SELECT i, repeat('x', 100) AS x FROM generate_series(1, 2000) i;"
        "ALTER TABLE t ADD COLUMN y float DEFAULT random()"
    ),
    "an index on a small table": "CREATE INDEX ON app.small (id)",
    "an index on a new table": "CREATE TABLE app.fresh (id int); CREATE INDEX ON app.fresh (id)",
    "concurrently": "CREATE INDEX CONCURRENTLY ON app.users (name)",
    "concurrently with a name": "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON app.users (id)",
    "a view over a protected table": "CREATE VIEW app.v AS SELECT 1 FROM app.users; DROP VIEW app.v",
    "a column": "ALTER TABLE app.users DROP COLUMN name",
    "another table": "DROP TABLE app.small",
}


@pytest.mark.parametrize("case", ALLOWED)
def test_a_guard_lets_pass(shared: Conninfo, case: str) -> None:
    with connect(shared) as session:
        session.execute(ALLOWED[case].encode())
        assert session.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid").fetchone() == (0,)


def test_concurrent_work_on_indexes_still_works(guarded: Conninfo) -> None:
    with connect(guarded) as session:
        session.execute("CREATE INDEX CONCURRENTLY i ON app.users (name)")
        session.execute("REINDEX INDEX CONCURRENTLY app.i")
        session.execute("DROP INDEX CONCURRENTLY app.i")
        session.execute(
            "CREATE TABLE app.p (d int) PARTITION BY LIST (d); CREATE TABLE app.p1 PARTITION OF app.p DEFAULT"
        )
        session.execute("CREATE TABLE app.p2 PARTITION OF app.p FOR VALUES IN (2); DROP TABLE app.p1")
        session.execute("ALTER TABLE app.p DETACH PARTITION app.p2 CONCURRENTLY")


def test_ddl_has_a_lock_timeout_where_nobody_set_one(guarded: Conninfo) -> None:
    with connect(guarded, autocommit=False) as reader, connect(guarded) as session:
        reader.execute("SELECT FROM app.users LIMIT 1")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            session.execute("ALTER TABLE app.users ADD COLUMN x int")
        assert session.execute("SHOW lock_timeout").fetchone() == ("0",), "it outlived the statement"
        session.execute("SET lock_timeout = '50ms'")
        with session.transaction():
            session.execute("ALTER TABLE app.small ADD COLUMN y int")
            assert session.execute("SHOW lock_timeout").fetchone() == ("50ms",)


def test_a_session_that_says_0_means_it(guarded: Conninfo) -> None:
    """A runner says so before CREATE INDEX CONCURRENTLY and a VALIDATE of minutes."""
    with connect(guarded) as session:
        session.execute("SET lock_timeout = 0")
        with session.transaction():
            session.execute("ALTER TABLE app.small ADD COLUMN x int")
            assert session.execute("SHOW lock_timeout").fetchone() == ("0",)


def test_concurrently_outwaits_a_writer(guarded: Conninfo) -> None:
    """The timeout that the guard sets ends with the first commit of CREATE INDEX CONCURRENTLY."""
    with connect(guarded, autocommit=False) as writer, connect(guarded) as session:
        writer.execute("UPDATE app.users SET name = 'w' WHERE id = 1")
        ender = threading.Timer(0.9, writer.commit)
        ender.start()
        session.execute("CREATE INDEX CONCURRENTLY i ON app.users (name)")
        ender.join()
        assert session.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'app.i'::regclass").fetchone() == (
            True,
        )


def test_a_superuser_may_pass_on_purpose(guarded: Conninfo) -> None:
    with connect(guarded) as session:
        with session.transaction():
            session.execute("ALTER EVENT TRIGGER dbsec_guard_drop DISABLE")
            session.execute("DROP TABLE app.orders")
            session.execute("ALTER EVENT TRIGGER dbsec_guard_drop ENABLE ALWAYS")
        with pytest.raises(psycopg.Error) as refused:
            session.execute("DROP TABLE app.users CASCADE")
        assert refused.value.sqlstate == "DBG03"


def test_the_way_back_takes_the_guards_away(guarded: Conninfo) -> None:
    with connect(guarded) as session:
        session.execute((MIGRATIONS / "guardrails.down.sql").read_bytes())
        session.execute("DROP TABLE app.orders")
        assert session.execute("SELECT count(*) FROM pg_event_trigger").fetchone() == (0,)


def test_the_migrator_under_the_guards(cluster_factory: Callable[..., Cluster]) -> None:
    """The files run as app_migrator, who has no right on the guards' schema and cannot pass them by."""
    cluster = cluster_factory()
    app = cluster.create_database("app")
    _schema(app)
    with connect(app) as admin:
        apply(admin, plan(admin, Model.load(ROOT / "db" / "roles.toml")))
        set_password(admin, "app_migrator", PASSWORD)
        admin.execute((MIGRATIONS / "guardrails.sql").read_text().replace("'100MB'", "'64kB'").encode())
    login = app.but(user="app_migrator", password=PASSWORD)
    _psql(cluster, login, MIGRATIONS / "001_expand_add_nullable_col.sql")
    with connect(login) as session:
        _backfill(session)
    _psql(cluster, login, MIGRATIONS / "003_contract_set_not_null.sql")
    with connect(login) as session:
        for sqlstate, statement in (
            ("DBG01", "ALTER TABLE app.users ADD COLUMN x float DEFAULT random()"),
            ("DBG02", "CREATE INDEX ON app.users (name)"),
            ("DBG03", "DROP TABLE app.orders"),
            ("42501", "SET session_replication_role = replica"),
            ("42501", "ALTER EVENT TRIGGER dbsec_guard_drop DISABLE"),
            ("42501", "CREATE OR REPLACE FUNCTION dbsec_guard.drop() RETURNS event_trigger LANGUAGE plpgsql AS ''"),
        ):
            with pytest.raises(psycopg.Error) as refused:
                session.execute(statement.encode())
            assert refused.value.sqlstate == sqlstate, statement
        session.execute("CREATE INDEX CONCURRENTLY i ON app.users (name)")
        session.execute("DROP INDEX CONCURRENTLY app.i")
    with connect(app) as admin:
        assert not plan(admin, Model.load(ROOT / "db" / "roles.toml")), "the migration left rights behind"
