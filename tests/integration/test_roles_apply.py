"""The role model on real servers: a plan changes nothing, applying it twice changes nothing more, all or nothing."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbsec.clock import SystemClock
from dbsec.errors import ApplyError, ConfigError, GaveUp, UsageError
from dbsec.pg import Conninfo, connect
from dbsec.roles import audit_log, catalog, graph, scram
from dbsec.roles.accounts import retire, set_password
from dbsec.roles.changes import Change, Plan
from dbsec.roles.desired import Model
from dbsec.roles.diff import apply, plan
from dbsec.roles.script import render_sql
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster
from dbsec.testing.proxy import Proxy

pytestmark = pytest.mark.pg(15, 17, 18)

ROOT = Path(__file__).resolve().parents[2]
MODEL = Model.load(ROOT / "db" / "roles.toml")
PASSWORD = Secret("a-password-of-a-test-login")


@dataclass(frozen=True)
class Site:
    cluster: Cluster
    admin: Conninfo

    def login(self, role: str) -> Conninfo:
        return self.admin.but(user=role, password=PASSWORD)

    def plan(self, model: Model = MODEL) -> Plan:
        with connect(self.admin) as admin:
            return plan(admin, model)

    def apply(self, model: Model = MODEL) -> None:
        with connect(self.admin) as admin:
            apply(admin, plan(admin, model))

    def run(self, statements: str) -> None:
        with connect(self.admin) as admin:
            admin.execute(statements.encode())


@pytest.fixture(scope="module")
def server(cluster_factory: Callable[..., Cluster]) -> Cluster:
    return cluster_factory(log_statement="all")


def _legacy(server: Cluster) -> Site:
    """Make the reference schema, owned by a superuser login, on a server that knows none of the roles."""
    with connect(server.admin) as admin:
        admin.execute("CREATE ROLE app_legacy SUPERUSER LOGIN")
        set_password(admin, "app_legacy", PASSWORD)
        admin.execute("CREATE DATABASE app OWNER app_legacy")
    made = Site(server, server.admin.but(dbname="app"))
    with connect(made.login("app_legacy")) as legacy:
        legacy.execute((ROOT / "app" / "schema.sql").read_bytes())
    return made


@pytest.fixture(scope="module")
def hardened(cluster_factory: Callable[..., Cluster]) -> Site:
    """A server as the model says: who changes it also brings it back."""
    site = _legacy(cluster_factory())
    site.apply()
    return site


@pytest.fixture
def site(server: Cluster) -> Iterator[Site]:
    yield _legacy(server)
    server.drop_database("app")
    with connect(server.admin) as admin:
        names = "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND oid <> 10"
        for (role,) in admin.execute(names).fetchall():
            admin.execute(f'DROP ROLE "{role}"'.encode())


def test_a_plan_changes_nothing(site: Site) -> None:
    def snapshot() -> catalog.Catalog:
        with connect(site.admin) as admin:
            return catalog.read(admin, ["app", "public"])

    before = snapshot()
    assert len(site.plan()) > 50
    assert snapshot() == before


def test_after_apply_there_is_nothing_to_do(site: Site) -> None:
    site.apply()
    assert site.plan().render() == "nothing to do: the server is as it shall be\n"


def test_the_way_back_leads_to_where_it_began(site: Site) -> None:
    there = site.plan()
    site.apply()
    for change in reversed(there.changes):
        if change.undo:
            site.run(change.undo)
    assert site.plan() == there


def test_the_service_writes_without_a_right_on_sequences(site: Site) -> None:
    site.apply()
    with connect(site.admin) as admin:
        set_password(admin, "app_gateway", PASSWORD)
        admin.execute("INSERT INTO app.tenants VALUES (DEFAULT, 'acme', 'Acme', sha256('k'))")
    with connect(site.login("app_gateway")) as service:
        service.execute(
            "INSERT INTO app.users (tenant_id, name, email, phone) SELECT id, 'A', 'a@b', '+1' FROM app.tenants"
        )
        assert service.execute("SELECT id FROM app.users").fetchone() == (1,)


# --- drift: what somebody changed by hand is found and taken back ------------------------------------------------

DRIFT = {
    "attribute": "ALTER ROLE app_gateway SUPERUSER CREATEROLE NOINHERIT",
    "limit": "ALTER ROLE app_bi CONNECTION LIMIT -1",
    "opened": "ALTER ROLE app_breakglass LOGIN",
    "role-dropped": "DROP ROLE dbsec_ctx",
    "setting-raised": "ALTER ROLE app_gateway SET statement_timeout = 0",
    "setting-added": "ALTER ROLE app_gateway SET work_mem = '1GB'",
    "setting-in-one-database": "ALTER ROLE app_gateway IN DATABASE app SET statement_timeout = 0",
    "membership": "GRANT app_owner TO app_gateway",
    "membership-of-a-stranger": "CREATE ROLE stranger; GRANT app_readwrite TO stranger WITH ADMIN OPTION",
    "predefined": "GRANT pg_read_all_data TO app_bi",
    "public-on-database": "GRANT CONNECT, TEMPORARY ON DATABASE app TO PUBLIC",
    "public-on-schema": "GRANT CREATE ON SCHEMA public TO PUBLIC",
    "public-on-table": "GRANT SELECT ON app.users TO PUBLIC",
    "too-much-on-table": "GRANT ALL ON app.orders TO app_readwrite",
    "too-little-on-table": "REVOKE DELETE ON app.orders FROM app_readwrite",
    "table-beside-columns": "GRANT SELECT ON app.users TO app_readonly",
    "column": "GRANT SELECT (phone) ON app.users TO app_readonly",
    "login-of-its-own": "GRANT SELECT ON app.users TO app_bi",
    "handed-on": (
        "GRANT SELECT ON app.orders TO app_readwrite WITH GRANT OPTION; SET ROLE app_readwrite;"
        "GRANT SELECT ON app.orders TO app_bi; RESET ROLE"
    ),
    "owner-of-table": "ALTER TABLE app.orders OWNER TO app_gateway",
    "owner-of-granted-group": "ALTER TABLE app.orders OWNER TO app_readwrite",
    "new-objects": (
        "CREATE TABLE app.parts (id serial, day date) PARTITION BY RANGE (day);"
        "CREATE TABLE app.parts_1 PARTITION OF app.parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');"
        "GRANT SELECT ON app.parts_1 TO app_readwrite;"
        "CREATE VIEW app.v AS SELECT 1 AS x; CREATE MATERIALIZED VIEW app.m AS SELECT 1 AS x;"
        "CREATE SEQUENCE app.s; CREATE TYPE app.e AS ENUM ('a'); CREATE DOMAIN app.d AS int;"
        "CREATE TYPE app.c AS (x int); CREATE TYPE app.r AS RANGE (subtype = int4);"
        "CREATE FUNCTION app.f(x int, y text DEFAULT '') RETURNS int LANGUAGE sql AS 'SELECT 1';"
        "CREATE PROCEDURE app.p() LANGUAGE sql AS 'SELECT 1';"
        "CREATE AGGREGATE app.a(int) (SFUNC = int4pl, STYPE = int);"
        'CREATE FUNCTION app."odd name"("odd type" app.e) RETURNS int LANGUAGE sql AS \'SELECT 1\''
    ),
    "only-a-view": "CREATE MATERIALIZED VIEW app.n AS SELECT 1 AS x",
    "default-for-public": "ALTER DEFAULT PRIVILEGES FOR ROLE app_owner IN SCHEMA app GRANT SELECT ON TABLES TO PUBLIC",
    "default-elsewhere": "ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT ALL ON SEQUENCES TO app_bi",
    "default-functions": "ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
    "default-of-a-login": "ALTER DEFAULT PRIVILEGES FOR ROLE app_gateway IN SCHEMA app GRANT ALL ON TABLES TO PUBLIC",
}


@pytest.mark.parametrize("kind", DRIFT)
def test_drift_is_found_and_taken_back(hardened: Site, kind: str) -> None:
    assert not hardened.plan()
    hardened.run(DRIFT[kind])
    assert hardened.plan(), "the drift was not seen"
    hardened.apply()
    assert hardened.plan().render() == "nothing to do: the server is as it shall be\n"


def test_what_was_handed_on_is_gone_after(site: Site) -> None:
    site.apply()
    site.run(DRIFT["handed-on"])
    site.apply()
    with connect(site.admin) as admin:
        held = admin.execute("SELECT has_table_privilege('app_readwrite', 'app.orders', 'SELECT WITH GRANT OPTION')")
        assert held.fetchone() == (False,)
        acl = admin.execute("SELECT relacl::text FROM pg_class WHERE oid = 'app.orders'::regclass").fetchone()
        assert acl is not None
        assert "app_bi" not in acl[0]


def test_everything_in_the_schema_belongs_to_the_owner(site: Site) -> None:
    site.run(DRIFT["new-objects"].replace("GRANT SELECT ON app.parts_1 TO app_readwrite;", ""))
    site.apply()
    with connect(site.admin) as admin:
        live = catalog.read(admin, ["app"])
        assert {t.owner for t in live.things} == {"app_owner"}
        left = admin.execute(
            "SELECT count(*) FROM pg_shdepend WHERE refobjid = 'app_legacy'::regrole AND deptype = 'o'"
        ).fetchone()
    assert left == (0,)


def test_dynamic_members_and_extensions_are_left_alone(site: Site) -> None:
    site.apply()
    site.run(
        'CREATE EXTENSION pgcrypto SCHEMA app; CREATE ROLE "v-root-app-x" LOGIN; GRANT app_readwrite TO "v-root-app-x"'
    )
    assert not site.plan()


@pytest.mark.pg(17, 18)
def test_memberships_have_their_options_since_16(site: Site) -> None:
    site.apply()
    site.run("GRANT app_owner TO app_migrator WITH INHERIT TRUE, ADMIN TRUE")
    site.run(
        "CREATE ROLE chief CREATEROLE; GRANT app_readonly TO chief WITH ADMIN OPTION; SET ROLE chief;"
        "GRANT app_readonly TO app_bi; GRANT app_readonly TO app_rotator; RESET ROLE"
    )
    site.apply()
    assert not site.plan()
    with connect(site.admin) as admin:
        live = catalog.read(admin, [])
    assert {(m.role, m.member) for m in live.memberships if m.role == "app_readonly"} == {("app_readonly", "app_bi")}


def _with_membership(**options: bool) -> Model:
    raw = MODEL.model_dump(by_alias=True)
    raw["roles"]["app_bi"]["member_of"] = [{"role": "app_readonly", **options}]
    for role in raw["roles"].values():
        for key in ("login", "connection_limit", "settings"):
            if role["kind"] != "login" or role[key] is None:
                role.pop(key)
    return Model.of(raw)


def test_a_membership_without_set_needs_16(site: Site) -> None:
    model = _with_membership(set=False)
    if site.cluster.major < 16:
        with pytest.raises(ConfigError, match="set = false needs 16"):
            site.plan(model)
        return
    site.apply(model)
    assert not site.plan(model)


def test_without_inherit_the_rights_need_set_role_on_every_version(site: Site) -> None:
    model = _with_membership(inherit=False)
    site.apply(model)
    assert not site.plan(model)
    with connect(site.admin) as admin:
        set_password(admin, "app_bi", PASSWORD)
        admin.execute("GRANT CONNECT ON DATABASE app TO app_bi")
    with connect(site.login("app_bi")) as bi:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            bi.execute("SELECT FROM app.orders")
        bi.execute("SET ROLE app_readonly")
        bi.execute("SELECT FROM app.orders")


def test_maintain_needs_17(site: Site) -> None:
    raw = MODEL.model_dump(by_alias=True, exclude_unset=True)
    raw["grants"][1]["privileges"] = ["SELECT", "MAINTAIN"]
    model = Model.of(raw)
    if site.cluster.major < 17:
        with pytest.raises(ConfigError, match="needs PostgreSQL 17"):
            site.plan(model)
        return
    site.apply(model)
    assert not site.plan(model)


def test_a_grant_on_what_is_not_there_is_refused(site: Site) -> None:
    raw = MODEL.model_dump(by_alias=True, exclude_unset=True)
    raw["grants"][4]["columns"] = ["id", "shoe_size"]
    with pytest.raises(ConfigError, match=r"no column 'app\.users\.shoe_size'"):
        site.plan(Model.of(raw))


def test_a_model_of_another_database_is_refused(site: Site) -> None:
    with connect(site.cluster.admin) as admin, pytest.raises(ConfigError, match="this is 'postgres'"):
        plan(admin, MODEL)


# --- beside a live service ---------------------------------------------------------------------------------------


def _service(conninfo: Conninfo, stop: threading.Event, taken: list[float]) -> None:
    """One client of a service: short transactions over two tables, each timed."""
    with connect(conninfo, autocommit=False) as session:
        while not stop.is_set():
            began = time.monotonic()
            session.execute("SELECT FROM app.users LIMIT 1")
            session.execute("DELETE FROM app.orders WHERE id = 0")
            session.commit()
            taken.append(time.monotonic() - began)
            time.sleep(0.002)


def test_tables_change_hands_beside_a_live_service(site: Site) -> None:
    stop = threading.Event()
    times: list[list[float]] = [[], [], []]
    clients = [threading.Thread(target=_service, args=(site.login("app_legacy"), stop, t)) for t in times]
    for client in clients:
        client.start()
    try:
        with connect(site.login("app_legacy"), autocommit=False) as slow:
            # a transaction that reads the tables for 0.7 s: nobody may change them before it ends
            slow.execute("SELECT FROM app.orders")
            ender = threading.Timer(0.7, slow.rollback)
            ender.start()
            began = time.monotonic()
            site.apply()
            waited = time.monotonic() - began
            ender.join()
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert not site.plan()
    assert waited >= 0.6, "it did not wait for the slow transaction"
    assert min(len(t) for t in times) > 20
    assert max(max(t) for t in times) < 0.7, "the service stalled for as long as the slow transaction"


def test_it_gives_up_where_a_table_stays_locked(site: Site) -> None:
    with connect(site.login("app_legacy"), autocommit=False) as slow, connect(site.admin) as admin:
        slow.execute("LOCK TABLE app.orders IN ACCESS SHARE MODE")
        with pytest.raises(GaveUp, match="lock timeout"):
            apply(admin, plan(admin, MODEL), within_s=0.3)
    assert len(site.plan()) > 50, "half of it was applied"


def test_two_at_once_do_not_meet(site: Site) -> None:
    """The second finds the server as the first left it, and says that its plan is old."""
    with connect(site.admin) as first, connect(site.admin) as second:
        old = plan(second, MODEL)
        apply(first, plan(first, MODEL))
        with pytest.raises(ApplyError, match="not as it was when the plan was made"):
            apply(second, old)


def test_all_or_nothing(site: Site) -> None:
    """A statement that fails in the middle takes back what came before it."""
    site.run(
        "CREATE ROLE stranger; CREATE FUNCTION public.no() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'no defaults here'; END $$;"
        "CREATE EVENT TRIGGER no ON ddl_command_end WHEN TAG IN ('ALTER DEFAULT PRIVILEGES')"
        " EXECUTE FUNCTION public.no()"
    )
    with connect(site.admin) as admin, pytest.raises(ApplyError, match="no defaults here") as failed:
        apply(admin, plan(admin, MODEL))
    assert "ALTER DEFAULT PRIVILEGES" in failed.value.hint
    with connect(site.admin) as admin:
        assert admin.execute("SELECT count(*) FROM pg_roles WHERE rolname = 'app_owner'").fetchone() == (0,)


def test_nobody_locks_himself_out(site: Site) -> None:
    raw = MODEL.model_dump(by_alias=True, exclude_unset=True)
    raw["roles"]["app_legacy"] = {"kind": "group", "purpose": "was the service"}
    model = Model.of(raw)
    with connect(site.login("app_legacy")) as chief:
        with pytest.raises(ApplyError, match="LOGIN or SUPERUSER"):
            apply(chief, plan(chief, model))
        assert chief.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'app_legacy'").fetchone() == (True,)
        apply(chief, plan(chief, model), allow_lockout=True)


def test_a_transaction_of_the_caller_is_refused(site: Site) -> None:
    with connect(site.admin, autocommit=False) as admin, pytest.raises(UsageError, match="autocommit"):
        apply(admin, plan(admin, MODEL))


# --- the script --------------------------------------------------------------------------------------------------


def _psql(site: Site, file: Path) -> None:
    found = site.cluster.instance.binaries
    url = f"host=127.0.0.1 port={site.admin.port} user={site.admin.user} dbname=app"
    password = site.admin.password
    assert password is not None
    env = {**os.environ, **found.env, "PGPASSWORD": password.reveal()}
    argv = [str(found.program("psql")), "-XqAt", "-d", url, "-f", str(file)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_roles_sql_makes_the_same_server(site: Site) -> None:
    _psql(site, ROOT / "db" / "roles.sql")
    assert site.plan().render() == "nothing to do: the server is as it shall be\n"
    _psql(site, ROOT / "db" / "roles.sql")
    assert not site.plan()


RICH: dict[str, Any] = {
    "format": 1,
    "database": {"name": "app", "temporary": ["grp"]},
    "schemas": {"app": {"owner": "own"}, "other": {"owner": "own"}},
    "roles": {
        "own": {"kind": "owner", "purpose": "owns"},
        "grp": {"kind": "group", "purpose": "has rights"},
        "who": {"kind": "login", "purpose": "connects", "member_of": [{"role": "grp", "admin": True}]},
    },
    "grants": [
        {"on": "tables", "schema": "app", "names": ["users"], "privileges": ["DELETE"], "to": ["grp"]},
        {
            "on": "tables",
            "schema": "app",
            "names": ["*"],
            "except": ["orders"],
            "privileges": ["SELECT"],
            "to": ["who"],
        },
        {"on": "tables", "schema": "app", "names": ["*"], "except": ["users"], "privileges": ["SELECT"], "to": ["grp"]},
        {"on": "tables", "schema": "app", "names": ["parts_1"], "privileges": ["INSERT"], "to": ["who"]},
        {"on": "sequences", "schema": "app", "names": ["s"], "privileges": ["USAGE"], "to": ["grp", "who"]},
        {"on": "functions", "schema": "app", "names": ["f"], "to": ["grp"]},
        {
            "on": "columns",
            "schema": "app",
            "table": "users",
            "columns": ["id", "name"],
            "privileges": ["SELECT", "UPDATE"],
            "to": ["who"],
        },
    ],
    "default_privileges": [
        {"for": "own", "on": "sequences", "privileges": ["USAGE"], "to": ["grp"]},
        {"for": "own", "schema": "other", "on": "functions", "privileges": ["EXECUTE"], "to": ["grp"]},
    ],
}


def test_script_and_plan_agree_on_every_kind_of_right(site: Site, tmp_path: Path) -> None:
    model = Model.of(RICH)
    site.run(DRIFT["new-objects"].replace("GRANT SELECT ON app.parts_1 TO app_readwrite;", ""))
    site.run("CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE EXTENSION pgcrypto SCHEMA app")
    (tmp_path / "roles.sql").write_text(render_sql(model))
    _psql(site, tmp_path / "roles.sql")
    assert site.plan(model).render() == "nothing to do: the server is as it shall be\n"
    site.run("DROP SCHEMA other; REVOKE ALL ON app.users FROM who; GRANT ALL ON ALL TABLES IN SCHEMA app TO who")
    site.apply(model)
    assert not site.plan(model)
    with connect(site.admin) as admin:
        kept = admin.execute("SELECT has_function_privilege('grp', 'app.digest(text, text)', 'EXECUTE')").fetchone()
    assert kept == (True,), "an extension lost what it gives to PUBLIC"


# --- passwords and the end of a login ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["pencil", "with 'quotes' and \\", "pässwörd", "no\u00a0break", "I\u00adX", "\u0627\u0031"]
)
def test_a_password_logs_in_and_never_reaches_the_log(site: Site, text: str) -> None:
    offset = site.cluster.log.stat().st_size
    site.apply()
    with connect(site.admin) as admin:
        set_password(admin, "app_gateway", Secret(text), iterations=5000)
        stored = admin.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'app_gateway'").fetchone()
    assert stored is not None
    assert stored[0].startswith("SCRAM-SHA-256$5000:")
    assert scram.matches(Secret(text), stored[0])
    connect(site.admin.but(user="app_gateway", password=Secret(text))).close()
    logged = site.cluster.log.read_bytes()[offset:].decode()
    assert "CREATE ROLE" in logged, "the log holds no statements, so that the test proves nothing"
    assert text not in logged
    assert stored[0] not in logged
    assert "dbsec: the password of role app_gateway was set" in logged


def test_a_password_for_nobody_says_so_and_tells_nothing(site: Site) -> None:
    with connect(site.admin) as admin, pytest.raises(ApplyError, match='role "nobody" does not exist') as failed:
        set_password(admin, "nobody", PASSWORD)
    assert "SCRAM" not in str(failed.value)
    assert failed.value.__cause__ is None


def test_a_retired_login_is_gone(site: Site) -> None:
    site.apply()
    site.run("CREATE TABLE public.left_over (id int); ALTER TABLE public.left_over OWNER TO app_legacy")
    with (
        connect(site.login("app_legacy")) as one,
        connect(site.login("app_legacy")) as two,
        connect(site.admin) as admin,
    ):
        done = retire(admin, "app_legacy", heir="app_owner")
        assert (done.sessions_ended, done.still_owned) == (2, 0)
        for session in (one, two):
            with pytest.raises(psycopg.errors.AdminShutdown):
                session.execute("SELECT 1")
        role = catalog.read(admin, []).roles["app_legacy"]
        assert (role.login, role.superuser) == (False, False)
        owner = admin.execute("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'left_over'").fetchone()
        assert owner == ("app_owner",)


def test_who_must_stay_is_not_retired(site: Site) -> None:
    site.run("CREATE ROLE app_owner")
    with connect(site.admin) as admin:
        with pytest.raises(UsageError, match="bootstrap superuser"):
            retire(admin, "postgres", heir="app_owner")
        with pytest.raises(UsageError, match="no role 'nobody'"):
            retire(admin, "nobody", heir="app_owner")
    with connect(site.login("app_legacy")) as legacy, pytest.raises(UsageError, match="logged in as"):
        retire(legacy, "app_legacy", heir="app_owner")


# --- the log settings --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _audited(site: Site) -> Iterator[Plan]:
    with connect(site.admin) as admin:
        there = audit_log.plan(admin)
        audit_log.apply(admin, there)
        try:
            yield there
        finally:
            for change in there:
                admin.execute(change.undo.encode())
            admin.execute("SELECT pg_reload_conf()")


def test_the_log_settings_need_no_restart(site: Site) -> None:
    query = "SELECT pg_postmaster_start_time()"
    with connect(site.admin) as admin:
        started = admin.execute(query).fetchone()
    with _audited(site), connect(site.admin) as admin:
        assert not audit_log.plan(admin)
        assert admin.execute(query).fetchone() == started
        assert admin.execute("SELECT count(*) FROM pg_settings WHERE pending_restart").fetchone() == (0,)
        shown = admin.execute("SHOW log_line_prefix").fetchone()
        assert shown == (audit_log.LINE_PREFIX,)


def test_a_setting_that_the_server_refuses_takes_all_back(site: Site) -> None:
    with connect(site.admin) as admin:
        there = audit_log.plan(admin)
        bad = Change("server-setting", "log_statement", "ALTER SYSTEM SET log_statement = 'some'", "", "")
        with pytest.raises(ApplyError, match="the log settings were not changed"):
            audit_log.apply(admin, Plan((*there, bad)))
        assert audit_log.plan(admin) == there


class Struck(SystemClock):
    """A clock that is first read when every setting is written, and then lets something happen."""

    def __init__(self, strike: Callable[[], object]) -> None:
        self._strike = strike

    def monotonic(self) -> float:
        self._strike()
        return super().monotonic()


def test_an_interrupt_takes_the_log_settings_back(site: Site) -> None:
    with connect(site.admin) as admin:

        def interrupt() -> None:
            admin.pgconn.send_query(b"SELECT 1")  # it strikes before the answer has been read
            raise KeyboardInterrupt

        there = audit_log.plan(admin)
        with pytest.raises(KeyboardInterrupt):
            audit_log.apply(admin, there, clock=Struck(interrupt))
    with connect(site.admin) as admin:
        assert audit_log.plan(admin) == there


def test_where_the_connection_is_lost_the_error_says_what_is_left_to_run(site: Site) -> None:
    with connect(site.admin) as direct, Proxy(site.cluster.instance.port) as proxy:
        there = audit_log.plan(direct)
        with (
            connect(site.admin.but(port=proxy.port)) as admin,
            pytest.raises(ApplyError, match=r"not all is as before") as lost,
        ):
            audit_log.apply(admin, there, clock=Struck(proxy.cut))
        assert isinstance(lost.value.__cause__, psycopg.OperationalError)
        assert all(c.object in lost.value.message for c in there)
        for statement in lost.value.hint.removeprefix("run as superuser: ").split("; "):
            direct.execute(statement.encode())
        assert audit_log.plan(direct) == there


def test_a_role_that_has_gone_since_the_plan_is_no_loss(site: Site) -> None:
    with connect(site.admin) as admin:
        admin.execute("CREATE ROLE passing SUPERUSER LOGIN")
        there = audit_log.plan(admin)
        admin.execute("DROP ROLE passing")
        with pytest.raises(ApplyError, match='the log settings were not changed: role "passing" does not exist'):
            audit_log.apply(admin, there)
        assert not [c for c in there if c not in audit_log.plan(admin).changes and "passing" not in c.object]


def test_one_superuser_may_be_left_out(site: Site) -> None:
    with connect(site.admin) as admin:
        objects = [c.object for c in audit_log.plan(admin, leave=["app_legacy"])]
    assert "postgres: log_statement" in objects
    assert "app_legacy: log_statement" not in objects


def test_the_picture_of_a_live_server(site: Site) -> None:
    with connect(site.admin) as admin:
        bad = graph.exhibit(catalog.read(admin, ["app"]))
    assert {"from": "app_legacy", "to": "everything", "label": "superuser", "kind": "danger"} in bad["edges"]
    site.apply()
    with connect(site.admin) as admin:
        live = catalog.read(admin, ["app"])
    edges = graph.exhibit(live)["edges"]
    assert {"from": "app_migrator", "to": "app_owner", "label": "SET ROLE", "kind": "weak"} in edges
    rows = {row[0]: row[2:] for row in graph.matrix(live)["rows"]}
    assert rows["app_gateway"] == ["SIUD", "SIUD", "S", "SIUD"]
    assert rows["app_bi"] == ["", "S", "s", "s"]
    assert set(rows["app_backup"]) == {"all, by replication"}
