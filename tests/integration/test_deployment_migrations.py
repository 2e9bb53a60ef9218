"""db/migrations on real servers: expand, backfill and contract beside the old release, and under the guards."""

from __future__ import annotations

import os
import subprocess
import tomllib
from collections.abc import Callable
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


def test_the_migrator_under_the_guards(cluster_factory: Callable[..., Cluster]) -> None:
    """The files run as app_migrator, who has no right on the guards' schema and cannot pass them by."""
    cluster = cluster_factory()
    app = cluster.create_database("app")
    _schema(app)
    with connect(app) as admin:
        apply(admin, plan(admin, Model.load(ROOT / "db" / "roles.toml")))
        set_password(admin, "app_migrator", PASSWORD)
        _psql(cluster, app, MIGRATIONS / "guardrails.sql")
        admin.execute("UPDATE dbsec_guard.settings SET value = '65536' WHERE name = 'max_table_bytes'")
        assert admin.execute("SELECT pg_table_size('app.users') > 65536").fetchone() == (True,)
    login = app.but(user="app_migrator", password=PASSWORD)
    _psql(cluster, login, MIGRATIONS / "001_expand_add_nullable_col.sql")
    with connect(login) as session:
        _backfill(session)
    _psql(cluster, login, MIGRATIONS / "003_contract_set_not_null.sql")
    with connect(login.but(options="-c statement_timeout=60s")) as session:
        for sqlstate, statement in (
            ("DBG01", "ALTER TABLE app.users ADD COLUMN x float DEFAULT random()"),
            ("DBG02", "CREATE INDEX ON app.users (name)"),
            ("DBG03", "DROP TABLE app.orders"),
            ("42501", "SET session_replication_role = replica"),
            ("42501", "ALTER EVENT TRIGGER dbsec_guard_8_drop DISABLE"),
            ("42501", "CREATE OR REPLACE FUNCTION dbsec_guard.judge_drop() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
            ("DBG05", "SET statement_timeout = 0; ALTER TABLE app.users ADD COLUMN x int"),
        ):
            with pytest.raises(psycopg.Error) as refused:
                session.execute(statement.encode())
            assert refused.value.sqlstate == sqlstate, statement
        session.execute("CREATE INDEX CONCURRENTLY i ON app.users (name)")
        session.execute("DROP INDEX CONCURRENTLY app.i")
    for name in ("003_contract_set_not_null", "001_expand_add_nullable_col"):
        _psql(cluster, login, MIGRATIONS / f"{name}.down.sql")
    with connect(app) as admin:
        admin.execute(
            "SET statement_timeout = '5s'; ALTER TABLE app.orders OWNER TO CURRENT_USER; RESET statement_timeout"
        )
        apply(admin, plan(admin, Model.load(ROOT / "db" / "roles.toml")))
        assert not plan(admin, Model.load(ROOT / "db" / "roles.toml")), "the migration left rights behind"
