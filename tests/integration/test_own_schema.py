"""dbsec's own schema: installed once by however many, upgraded, removed, and used by roles that own nothing of it."""

from __future__ import annotations

import json
import secrets
import sys
import threading
from pathlib import Path

import psycopg
import pytest

from dbsec import files, process
from dbsec.errors import ApplyError, NewerFormat, ProgramError, UsageError
from dbsec.journal import Journal, PostgresStore
from dbsec.migrations import guard
from dbsec.pg import connect, own
from dbsec.pg.own import change, planning, state
from dbsec.pg.own.steps import STEPS, Step
from dbsec.roles import Model
from dbsec.roles import apply as apply_roles
from dbsec.roles import plan as plan_roles
from dbsec.secret import Secret

ROOT = Path(__file__).parents[2]
EXTRA = Step(900, "extra", "-- min_client: 1\nCREATE TABLE IF NOT EXISTS dbsec.extra (id int);")


@pytest.fixture
def admin(database):
    with connect(database.conninfo) as admin:
        yield admin


@pytest.fixture
def login(database):
    """Make logins and drop them; ``login(attributes)`` returns how one connects."""
    made = []

    def login(attributes: str = ""):
        name = f"r_{secrets.token_hex(4)}"
        with connect(database.conninfo) as admin:
            admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' {attributes}")
        made.append(name)
        return name, database.conninfo.but(user=name, password=Secret("x"))

    yield login
    with connect(database.conninfo) as admin:
        for name in reversed(made):
            admin.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


@pytest.fixture
def newer(monkeypatch):
    """A dbsec that is one version ahead: a real step file more."""

    def newer(*steps):
        monkeypatch.setattr(planning, "STEPS", (*STEPS, *steps))  # hook: ok the steps of the next release
        monkeypatch.setattr(state, "VERSION", steps[-1].version)  # hook: ok and its version

    return newer


def older(connection: psycopg.Connection, min_client: int) -> None:
    """Leave what a dbsec of the future would: a step that this one does not know."""
    connection.execute("INSERT INTO dbsec.schema_version VALUES (999, %s, now(), '99.0')", [min_client])


def objects(connection):
    query = "SELECT relname, relowner::regrole::text FROM pg_class WHERE relnamespace = 'dbsec'::regnamespace"
    return sorted(connection.execute(query).fetchall())


@pytest.mark.pg(15, 17, 18)
def test_it_installs_once_and_all_is_the_owners(admin):
    assert own.installed(admin) is None
    with pytest.raises(ApplyError, match="is not installed") as absent:
        own.require(admin)
    assert absent.value.hint.startswith("dbsec db install")
    assert own.install(admin)
    before = objects(admin)
    assert {owner for _, owner in before} == {"dbsec_owner"}
    assert own.installed(admin) == own.VERSION
    own.require(admin)
    assert not own.install(admin)
    assert objects(admin) == before
    assert not admin.execute("SELECT FROM pg_roles WHERE rolname = 'dbsec_owner' AND rolcanlogin").fetchall()
    assert admin.execute("SELECT current_setting('role')").fetchone() == ("none",)


def test_every_table_of_the_steps_is_known_to_them_and_nothing_is_public(admin):
    own.install(admin)
    kinds = "SELECT relname FROM pg_class WHERE relnamespace = 'dbsec'::regnamespace AND relkind IN ('r', 'p', 'v')"
    assert {name for (name,) in admin.execute(kinds)} == {table for step in STEPS for table in step.tables}
    public = """SELECT proname FROM pg_proc WHERE pronamespace = 'dbsec'::regnamespace
                   AND has_function_privilege('pg_monitor', oid, 'EXECUTE')"""
    assert admin.execute(public).fetchall() == []


def test_steps_may_run_again_and_do_not_depend_on_the_search_path(admin):
    own.install(admin)
    admin.execute("CREATE SCHEMA evil; CREATE TABLE evil.journal (job text); SET search_path = evil, public")
    admin.execute("DELETE FROM dbsec.schema_version WHERE version > 0")
    before = objects(admin)
    own.install(admin)
    assert objects(admin) == before


@pytest.mark.pg(15, 17, 18)
def test_a_plan_changes_nothing_and_says_it_all(admin):
    what = own.plan(admin, own.Verb.INSTALL, users=["postgres"])
    assert [act.what.partition(":")[0] for act in what.acts][-3:] != []
    assert "CREATE SCHEMA dbsec AUTHORIZATION dbsec_owner" in [act.statement for act in what.acts]
    assert own.installed(admin) is None
    assert own.install(admin, users=["postgres"]).acts == what.acts
    assert not own.plan(admin, own.Verb.INSTALL, users=["postgres"])


@pytest.mark.pg(15, 17)
def test_a_user_reads_and_writes_and_cannot_say_which_version_it_is(admin, login):
    name, conninfo = login()
    own.install(admin, users=[name])
    assert own.users(admin) == [name]
    with connect(conninfo) as user:
        own.require(user)
        with PostgresStore(user, "job") as store:
            Journal(store).run("a", lambda: 1)
        for refused in ("DELETE FROM dbsec.schema_version", "CREATE TABLE dbsec.mine ()", "DROP TABLE dbsec.journal"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                user.execute(refused)
    stranger, conninfo = login()
    with connect(conninfo) as user, pytest.raises(ApplyError, match=f"role '{stranger}' may not use") as told:
        own.require(user)
    assert f"--user {stranger}" in told.value.hint
    with pytest.raises(UsageError, match="there is no role 'nobody'"):
        own.install(admin, users=["nobody"])


@pytest.mark.pg(15, 17, 18)
def test_who_may_not_is_told_what_a_superuser_must_run(admin, login, database):
    name, conninfo = login()
    with connect(conninfo) as user, pytest.raises(ApplyError, match=f"role '{name}' may not install") as refused:
        own.install(user)
    assert own.installed(admin) is None
    assert refused.value.hint.startswith("as a superuser: ")
    for statement in refused.value.hint.removeprefix("as a superuser: ").split("; "):
        admin.execute(statement)
    with connect(conninfo) as user:
        own.install(user)
    assert own.installed(admin) == own.VERSION
    admin.execute(f"REVOKE dbsec_owner FROM {name}")


@pytest.mark.pg(15, 17)
def test_the_right_to_make_roles_is_enough_and_leaves_no_membership(admin, login, database):
    name, conninfo = login("CREATEROLE")
    admin.execute(f'GRANT CREATE ON DATABASE "{database.conninfo.dbname}" TO {name}')
    if database.cluster.major >= 16:  # who made the role may hand it out; here somebody else did
        own.install(admin)
        own.uninstall(admin)
        admin.execute(f"GRANT dbsec_owner TO {name} WITH ADMIN TRUE, SET FALSE, INHERIT FALSE")
    with connect(conninfo) as user:
        own.install(user)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            user.execute("SET ROLE dbsec_owner")
    assert {owner for _, owner in objects(admin)} == {"dbsec_owner"}
    admin.execute(f"REVOKE dbsec_owner FROM {name}")


def test_it_is_installed_and_removed_under_the_guard(admin):
    guard.install(admin, guard.Policy())
    own.install(admin)
    own.uninstall(admin)


def test_two_at_once_install_it_once(database):
    turn = threading.Barrier(4)
    failed = []

    def race():
        with connect(database.conninfo) as connection:
            turn.wait()
            try:
                own.install(connection)
            except Exception as exc:
                failed.append(exc)

    racers = [threading.Thread(target=race) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert failed == []
    with connect(database.conninfo) as admin:
        assert [step.version for step in own.steps(admin)] == [step.version for step in STEPS]


def test_two_databases_at_once_share_the_role(cluster_factory):
    cluster = cluster_factory()
    turn = threading.Barrier(3)
    failed = []

    def race(conninfo):
        with connect(conninfo) as connection:
            turn.wait()
            try:
                own.install(connection)
            except Exception as exc:
                failed.append(exc)

    racers = [threading.Thread(target=race, args=[cluster.create_database(f"d{n}")]) for n in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    cluster.instance.stop()
    assert failed == []


def test_an_upgrade_gives_users_what_is_new(admin, login, newer):
    name, _ = login()
    with pytest.raises(ApplyError, match="is not installed"):
        own.upgrade(admin)
    own.install(admin, users=[name])
    newer(EXTRA)
    with pytest.raises(ApplyError, match="version 900 is needed") as behind:
        own.require(admin, 900)
    assert behind.value.hint.startswith("dbsec db upgrade")
    assert [act.what for act in own.upgrade(admin).acts] == ["version 900: extra", f"'{name}' may use it"]
    assert admin.execute(f"SELECT has_table_privilege('{name}', 'dbsec.extra', 'INSERT')").fetchone() == (True,)


def test_an_older_client_works_until_a_step_says_that_it_must_not(admin):
    own.install(admin)
    older(admin, min_client=own.VERSION)
    own.require(admin)
    assert not own.install(admin)
    with PostgresStore(admin, "job") as store:
        assert Journal(store).run("a", lambda: 1) == 1
    admin.execute("UPDATE dbsec.schema_version SET min_client = 999 WHERE version = 999")
    for use in (own.require, own.install, own.upgrade):
        with pytest.raises(NewerFormat, match="schema 'dbsec' was written by a newer dbsec"):
            use(admin)


def test_a_step_without_a_word_leaves_a_client_one_version_older_at_work():
    assert Step(7, "x", "SELECT 1").min_client == 6
    assert Step(7, "x", "-- min_client: 3\nSELECT 1").min_client == 3


def test_a_step_that_fails_leaves_what_was_before(admin, newer):
    own.install(admin)
    newer(EXTRA, Step(901, "bad", "CREATE TABLE dbsec.bad (id int); SELECT 1/0;"))
    with pytest.raises(ApplyError, match=r"version 901: bad: division by zero; nothing was changed"):
        own.upgrade(admin)
    assert own.installed(admin) == STEPS[-1].version
    assert admin.execute("SELECT to_regclass('dbsec.extra'), to_regclass('dbsec.bad')").fetchone() == (None, None)


def test_it_is_removed_only_where_no_job_runs(admin, database):
    own.install(admin)
    worker = connect(database.conninfo, application_name="backfill@test")
    with worker, PostgresStore(worker, "copy") as store:
        Journal(store).run("a", lambda: 1)
        what = own.plan(admin, own.Verb.UNINSTALL)
        assert ("dbsec.journal", 2) in what.rows
        assert [one.application for one in what.running] == ["backfill@test"]
        with pytest.raises(ApplyError, match=r"a job uses schema 'dbsec': pid \d+ \('backfill@test'"):
            own.uninstall(admin)
        own.uninstall(admin, force=True)
    assert own.installed(admin) is None
    assert not own.uninstall(admin)
    assert admin.execute("SELECT FROM pg_roles WHERE rolname = 'dbsec_owner'").fetchall()
    own.install(admin)


def test_what_others_built_on_it_keeps_it_there(admin):
    own.install(admin)
    admin.execute("CREATE VIEW public.mine AS SELECT job FROM dbsec.journal")
    with pytest.raises(ApplyError, match=r"view public.mine depends on table dbsec.journal; nothing was changed"):
        own.uninstall(admin)
    assert own.installed(admin) == own.VERSION


def test_a_schema_of_others_and_a_transaction_of_others_are_refused(admin):
    with admin.transaction(), pytest.raises(UsageError, match="in a transaction of others"):
        own.install(admin)
    admin.execute("CREATE SCHEMA dbsec")
    with pytest.raises(ApplyError, match="belongs to 'postgres'"):
        own.install(admin)
    assert change.LOCK >> 32 == 0x64627365


@pytest.mark.pg(15, 17)
def test_the_role_model_sees_no_drift_and_the_migrator_uses_it(cluster_factory):
    """db/roles.toml owns every GRANT in schemas that it names; this one it does not name."""
    cluster = cluster_factory()
    conninfo = cluster.create_database("app")
    model = Model.load(ROOT / "db" / "roles.toml")
    with connect(conninfo) as admin:
        admin.execute("CREATE SCHEMA app")
        for table in ("tenants (id int, slug text, name text)", "users (id serial, tenant_id int, created_at date)"):
            admin.execute(f"CREATE TABLE app.{table}")
        admin.execute("CREATE TABLE app.orders (id int)")
        apply_roles(admin, plan_roles(admin, model))
        assert not plan_roles(admin, model)
        own.install(admin, users=["app_migrator"])
        assert not plan_roles(admin, model), plan_roles(admin, model).render()
        assert own.users(admin) == ["app_migrator", "app_owner"]
        admin.execute("ALTER ROLE app_migrator PASSWORD 'x'")
    with connect(conninfo.but(user="app_migrator", password=Secret("x"))) as migrator:
        assert migrator.execute("SELECT current_user").fetchone() == ("app_owner",)
        own.require(migrator)
        with migrator.transaction(), PostgresStore(migrator, "job") as store:
            assert Journal(store).run("a", lambda: 1) == 1
    with connect(conninfo) as admin:
        admin.execute("GRANT ALL ON dbsec.journal TO PUBLIC")
        assert not plan_roles(admin, model)  # not its business: the installer's plan is what owns this schema
    cluster.instance.stop()


def test_the_command_plans_unless_it_is_told_to_apply(database, admin, tmp_path):
    files.write_atomic(tmp_path / "dsn", database.conninfo.text())

    def dbsec(*argv):
        command = [sys.executable, "-m", "dbsec", "db", *argv, "--dsn", f"file:{tmp_path}/dsn", "--format", "json"]
        return json.loads(process.run(command, cwd=tmp_path))["result"]

    with pytest.raises(ProgramError, match="ended with 1"):
        dbsec("status")
    planned = dbsec("install", "--user", "postgres")
    assert (planned["applied"], own.installed(admin)) == (False, None)
    applied = dbsec("install", "--user", "postgres", "--apply")
    assert applied["acts"] == planned["acts"]
    with PostgresStore(admin, "copy") as store:
        Journal(store).run("a", lambda: 1)
        (job,) = dbsec("status")["jobs"]
        assert (job["name"], job["step"], job["event"]) == ("copy", "a", "done")
        assert f"pid {admin.info.backend_pid}" in job["holder"]
        assert {"table": "dbsec.journal", "rows": 2} in dbsec("uninstall")["loses"]
        with pytest.raises(ProgramError, match="ended with 3: dbsec: a job uses schema 'dbsec'"):
            dbsec("uninstall", "--apply")
    assert dbsec("upgrade", "--apply")["acts"] == []
    assert dbsec("uninstall", "--apply")["applied"]
    assert own.installed(admin) is None
