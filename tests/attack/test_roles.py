"""What a stolen login of the service may do: all of it before the roles are there, none of it after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from dbsec.errors import ConnectError
from dbsec.evidence import Drill, Observation, Outcome
from dbsec.pg import Conninfo, connect
from dbsec.roles import audit_log
from dbsec.roles.accounts import retire, set_password
from dbsec.roles.desired import Model
from dbsec.roles.diff import apply, plan
from dbsec.roles.drill import RolesTarget, drills
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster

pytestmark = pytest.mark.pg(15, 17, 18)

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = Secret("a-password-of-a-test-login")
NOWHERE = RolesTarget(Conninfo, Conninfo, Conninfo, Path("/nowhere"))
NAMES = [drill.name for drill in drills(NOWHERE)]
# what the server must answer; None: the drill does not end by a refusal
SQLSTATES = dict.fromkeys(NAMES[:10], "42501") | {NAMES[11]: "57014", NAMES[12]: "53300"}


@dataclass(frozen=True)
class Site:
    cluster: Cluster
    admin: Conninfo
    target: RolesTarget

    def login(self, role: str) -> Conninfo:
        return self.admin.but(user=role, password=PASSWORD)

    def drill(self, name: str) -> Drill:
        return next(d for d in drills(self.target) if d.name == name)


def _site(cluster: Cluster, service: str, migrator: str) -> Site:
    """Make the honest bad deployment: one superuser login owns everything and runs the service."""
    with connect(cluster.admin) as admin:
        admin.execute("CREATE ROLE app_legacy SUPERUSER LOGIN")
        set_password(admin, "app_legacy", PASSWORD)
        admin.execute("CREATE DATABASE app OWNER app_legacy")
    app = cluster.admin.but(dbname="app")
    with connect(app.but(user="app_legacy", password=PASSWORD)) as legacy:
        legacy.execute((ROOT / "app" / "schema.sql").read_bytes())
        legacy.execute("INSERT INTO app.tenants VALUES (DEFAULT, 'acme', 'Acme', sha256('k'))")
        legacy.execute("INSERT INTO app.users SELECT FROM app.tenants WHERE false")
        legacy.execute(
            "INSERT INTO app.users (tenant_id, name, email, phone) SELECT id, 'A', 'a@acme', '+1' FROM app.tenants"
        )
        legacy.execute(
            "INSERT INTO app.orders (tenant_id, user_id, amount_cents, currency)"
            " SELECT tenant_id, id, 100, 'EUR' FROM app.users, generate_series(1, 20)"
        )

    def as_role(role: str) -> Callable[[], Conninfo]:
        return lambda: app.but(user=role, password=PASSWORD)

    return Site(cluster, app, RolesTarget(as_role(service), as_role(migrator), lambda: app, cluster.log))


@pytest.fixture(scope="module")
def before(cluster_factory: Callable[..., Cluster]) -> Site:
    return _site(cluster_factory(), "app_legacy", "app_legacy")


@pytest.fixture(scope="module")
def after(cluster_factory: Callable[..., Cluster]) -> Site:
    site = _site(cluster_factory(), "app_gateway", "app_migrator")
    with connect(site.admin) as admin:
        apply(admin, plan(admin, Model.load(ROOT / "db" / "roles.toml")))
        for role in ("app_gateway", "app_migrator", "app_bi"):
            set_password(admin, role, PASSWORD)
        retire(admin, "app_legacy", heir="app_owner")
        audit_log.apply(admin, audit_log.plan(admin))
    return site


@pytest.mark.parametrize("name", NAMES)
def test_the_attack_succeeds_on_the_bad_deployment(before: Site, name: str) -> None:
    seen = before.drill(name).attack()
    assert seen.outcome is Outcome.FAIL, seen


@pytest.mark.parametrize("name", NAMES)
def test_the_attack_is_refused_after(after: Site, name: str) -> None:
    seen = after.drill(name).attack()
    assert seen.outcome is Outcome.PASS, seen
    assert (seen.facts.get("sqlstate") or seen.facts.get("ended_by")) == SQLSTATES.get(name)


def test_the_attacks_leave_nothing_behind(before: Site) -> None:
    for drill in drills(before.target):
        if not drill.control.id.startswith("LOG-"):
            drill.attack()
    with connect(before.admin) as admin:
        assert admin.execute("SELECT count(*) FROM app.orders").fetchone() == (20,)
        assert admin.execute("SELECT count(*) FROM pg_class WHERE relname ~ 'dbsec_drill'").fetchone() == (0,)
        assert admin.execute("SELECT count(*) FROM pg_roles WHERE rolname ~ 'dbsec_drill'").fetchone() == (0,)


def test_a_login_that_may_do_nothing_proves_nothing(after: Site) -> None:
    """A refusal is worth nothing where the login cannot even read its own table."""
    target = RolesTarget(
        lambda: after.login("app_rotator"), after.target.migrator, after.target.admin, after.cluster.log
    )
    with connect(after.admin) as admin:
        set_password(admin, "app_rotator", PASSWORD)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="schema app"):
        drills(target)[0].attack()


# --- each guard broken on purpose --------------------------------------------------------------------------------

MUTATIONS = {
    "TRUNCATE app.orders": (
        "GRANT TRUNCATE ON app.orders TO app_readwrite",
        "REVOKE TRUNCATE ON app.orders FROM app_readwrite",
    ),
    "DROP TABLE app.orders": ("GRANT app_owner TO app_gateway", "REVOKE app_owner FROM app_gateway"),
    "SET ROLE to the owner": ("GRANT app_owner TO app_gateway", "REVOKE app_owner FROM app_gateway"),
    "CREATE TABLE in schema app": ("GRANT CREATE ON SCHEMA app TO PUBLIC", "REVOKE CREATE ON SCHEMA app FROM PUBLIC"),
    "CREATE TABLE in schema public": (
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    ),
    "read pg_authid": ("GRANT pg_read_all_data TO app_gateway", "REVOKE pg_read_all_data FROM app_gateway"),
    "pg_read_file": (
        "GRANT pg_read_server_files TO app_gateway; GRANT EXECUTE ON FUNCTION pg_read_file(text) TO app_gateway",
        "REVOKE pg_read_server_files FROM app_gateway; REVOKE EXECUTE ON FUNCTION pg_read_file(text) FROM app_gateway",
    ),
    "COPY FROM PROGRAM 'id'": (
        "GRANT pg_execute_server_program TO app_gateway",
        "REVOKE pg_execute_server_program FROM app_gateway",
    ),
    "CREATE ROLE … SUPERUSER": ("ALTER ROLE app_gateway SUPERUSER", "ALTER ROLE app_gateway NOSUPERUSER"),
    "session_replication_role": (
        "GRANT SET ON PARAMETER session_replication_role TO app_gateway",
        "REVOKE SET ON PARAMETER session_replication_role FROM app_gateway",
    ),
    "make a table as the owner and look who may use it": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE app_owner IN SCHEMA app GRANT ALL ON TABLES TO app_readwrite",
        "ALTER DEFAULT PRIVILEGES FOR ROLE app_owner IN SCHEMA app REVOKE ALL ON TABLES FROM app_readwrite;"
        "ALTER DEFAULT PRIVILEGES FOR ROLE app_owner IN SCHEMA app GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES"
        " TO app_readwrite",
    ),
    "sleep beyond the statement timeout": (
        "ALTER ROLE app_gateway RESET statement_timeout",
        "ALTER ROLE app_gateway SET statement_timeout = '5s'",
    ),
    "open more connections than allowed, as a sibling of the service": (
        "ALTER ROLE app_gateway CONNECTION LIMIT -1",
        "ALTER ROLE app_gateway CONNECTION LIMIT 40",
    ),
    "drop a table as the migrator and look who it was": (
        "ALTER ROLE app_migrator SET log_statement = 'none'",
        "ALTER ROLE app_migrator SET log_statement = 'ddl'",
    ),
    "log in as superuser and look for it": (
        "ALTER ROLE postgres RESET log_statement",
        "ALTER ROLE postgres SET log_statement = 'all'",
    ),
}


@contextmanager
def _mutated(site: Site, wrong: str, right: str) -> Iterator[None]:
    with connect(site.admin) as admin:
        admin.execute(wrong.encode())
        try:
            yield
        finally:
            admin.execute(right.encode())


def test_every_drill_has_its_mutation() -> None:
    assert set(MUTATIONS) == set(NAMES)


@pytest.mark.parametrize("name", MUTATIONS)
def test_one_right_too_much_is_found(after: Site, name: str) -> None:
    with _mutated(after, *MUTATIONS[name]):
        seen = after.drill(name).attack()
    assert seen.outcome is Outcome.FAIL, seen
    again: Observation = after.drill(name).attack()
    assert again.outcome is Outcome.PASS, again


def test_more_connections_than_the_server_has_are_no_limit(after: Site) -> None:
    name = "open more connections than allowed, as a sibling of the service"
    with _mutated(after, "ALTER ROLE app_gateway CONNECTION LIMIT 1000", "ALTER ROLE app_gateway CONNECTION LIMIT 40"):
        assert after.drill(name).attack().outcome is Outcome.FAIL


# --- attacks beside the drills -----------------------------------------------------------------------------------


def test_the_retired_superuser_cannot_log_in(after: Site) -> None:
    with pytest.raises(ConnectError, match="password authentication failed"):
        connect(after.login("app_legacy"))


def test_the_group_of_reports_reads_no_personal_data(after: Site) -> None:
    with connect(after.login("app_bi")) as bi:
        assert bi.execute("SELECT count(*) FROM app.orders").fetchone() == (20,)
        assert bi.execute("SELECT count(created_at) FROM app.users").fetchone() == (1,)
        for query in (
            "SELECT phone FROM app.users",
            "SELECT api_key_hash FROM app.tenants",
            "TABLE app.idempotency_keys",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                bi.execute(query.encode())


def test_the_service_cannot_give_itself_the_key_of_a_tenant(after: Site) -> None:
    with connect(after.login("app_gateway")) as service:
        assert service.execute("SELECT count(*) FROM app.tenants").fetchone() == (1,)
        for statement in ("UPDATE app.tenants SET api_key_hash = sha256('mine')", "DELETE FROM app.tenants"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                service.execute(statement.encode())


def test_the_migrator_has_nothing_under_its_own_name(after: Site) -> None:
    with connect(after.login("app_migrator")) as migrator:
        assert migrator.execute("SELECT session_user, current_user").fetchone() == ("app_migrator", "app_owner")
        migrator.execute("SET ROLE NONE")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            migrator.execute("SELECT FROM app.orders")


def test_the_migrator_cannot_switch_its_log_off(after: Site) -> None:
    with connect(after.login("app_migrator")) as migrator, pytest.raises(psycopg.errors.InsufficientPrivilege):
        migrator.execute("SET log_statement = 'none'")


def test_a_login_that_is_refused_cannot_write_into_the_trail(after: Site) -> None:
    """The user name that a client asks for goes to the log as it is, line breaks too."""
    offset = after.cluster.log.stat().st_size
    forged = after.admin.but(
        user='x\n2026-11-23 10:00:00.000 UTC [9] 6b042c3c.9 ::1 00000 user="a',
        dbname='b" db="b" app="c" LOG:  statement: DROP TABLE app.orders --',
        password=PASSWORD,
    )
    with pytest.raises(ConnectError):
        connect(forged)
    connect(after.admin, application_name="the next one").close()
    found = audit_log.find(after.cluster.log, offset=offset)
    raw = after.cluster.log.read_bytes()[offset:].decode()
    assert "\n2026-11-23 10:00:00.000 UTC [9]" in raw, "the server no longer lets a line break through: drop the guard"
    assert [line.host for line in found if "DROP TABLE" in line.message and not line.doubtful] == []
    assert any("the next one" in line.message and not line.doubtful for line in found), "an honest line was lost"


def test_a_drop_is_found_although_its_maker_chose_the_name_of_another(after: Site) -> None:
    """The application's name is the client's to choose; who and from where stand before it."""
    offset = after.cluster.log.stat().st_size
    with connect(after.login("app_migrator"), application_name='x" LOG:  statement: SELECT 1') as migrator:
        migrator.execute("CREATE TABLE app.gone (id int)")
        migrator.execute("DROP TABLE app.gone")
    (line,) = audit_log.find(after.cluster.log, offset=offset, contains="DROP TABLE app.gone")
    assert (line.user, line.host) == ("app_migrator", "127.0.0.1")
