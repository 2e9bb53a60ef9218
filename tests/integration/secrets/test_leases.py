"""Credentials that a real OpenBao issues for a real PostgreSQL: they log in, and after their end they do not."""

from __future__ import annotations

import json
import secrets
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from dbsec.errors import ConnectError
from dbsec.pg import Conninfo, connect
from dbsec.secret import Secret
from dbsec.secrets import Lease, Provider, SecretMissing, SecretRefused, open_secrets

if TYPE_CHECKING:
    from tests.openbao import OpenBao

    from dbsec.testing.clusters import Cluster

CREATE = (
    "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE app_rw",
    "ALTER ROLE \"{{name}}\" SET role = 'app_rw'",
)
REVOKE = (
    'ALTER ROLE "{{name}}" NOLOGIN',
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'",
    'DROP ROLE IF EXISTS "{{name}}"',
)


@dataclass(frozen=True)
class Bed:
    """A server with a group app_rw and a login svc, both in the hands of an OpenBao."""

    server: Conninfo
    openbao: OpenBao
    engine: str
    uri: str

    @property
    def source(self) -> Provider:
        return open_secrets(self.uri, environ={})

    def opened(self, rules: str) -> Provider:
        return open_secrets(_uri(self.openbao, self.engine, rules), environ={})

    def who(self, lease: Lease) -> tuple[str, str]:
        with connect(self.server.but(user=lease.username, password=lease.password)) as session:
            (row,) = session.execute("SELECT session_user, current_user").fetchall()
        return row

    def refused(self, lease: Lease) -> str:
        with pytest.raises(ConnectError) as told:
            self.who(lease)
        return str(told.value)


@pytest.fixture(scope="module")
def bed(openbao: OpenBao, cluster_factory: Callable[..., Cluster]) -> Bed:
    server = cluster_factory().admin
    with connect(server) as admin:
        for statement in (
            "CREATE ROLE app_rw NOLOGIN",
            "CREATE ROLE bao LOGIN SUPERUSER PASSWORD 'of the test alone'",
            "CREATE ROLE svc LOGIN PASSWORD 'at first' IN ROLE app_rw",
        ):
            admin.execute(statement)
    engine = f"db-{secrets.token_hex(4)}"
    bao = openbao.admin()
    bao.write(f"sys/mounts/{engine}", {"type": "database"})
    url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{server.port}/postgres?sslmode=disable"
    plugin = {"plugin_name": "postgresql-database-plugin", "connection_url": url, "allowed_roles": ["*"]}
    login = {"username": "bao", "password": "of the test alone", "password_authentication": "scram-sha-256"}
    bao.write(f"{engine}/config/pg", {**plugin, **login})
    role = {"db_name": "pg", "creation_statements": CREATE, "revocation_statements": REVOKE}
    bao.write(f"{engine}/roles/app", {**role, "default_ttl": "60s", "max_ttl": "5m"})
    bao.write(f"{engine}/static-roles/svc", {"db_name": "pg", "username": "svc", "rotation_period": "24h"})
    rules = [
        f'path "{engine}/creds/*" {{ capabilities = ["read"] }}',
        f'path "{engine}/static-creds/*" {{ capabilities = ["read"] }}',
        f'path "{engine}/rotate-role/svc" {{ capabilities = ["update"] }}',
        'path "sys/leases/revoke" { capabilities = ["update"] }',
    ]
    return Bed(server, openbao, engine, _uri(openbao, engine, "\n".join(rules)))


def _uri(openbao: OpenBao, engine: str, rules: str) -> str:
    given = {"ca": str(openbao.ca), "token": f"file:{openbao.token(rules)}", "database": engine}
    query = urlencode(given, safe="/:")
    return f"vault://{openbao.address.removeprefix('https://')}/secret?{query}"


def test_two_leases_are_two_logins_in_one_group(bed: Bed):
    one, other = bed.source.lease("app"), bed.source.lease("app")
    assert bed.who(one) == (one.username, "app_rw")
    assert bed.who(other) == (other.username, "app_rw")
    assert one.username != other.username
    assert one.lives_s == 60
    assert one.renewable
    assert one.password.reveal() not in repr(one)


def test_a_revoked_lease_ends_its_sessions_and_logs_in_no_more(bed: Bed):
    dead, alive = bed.source.lease("app"), bed.source.lease("app")
    with connect(bed.server.but(user=dead.username, password=dead.password), autocommit=True) as session:
        bed.source.revoke(dead)
        with pytest.raises(Exception, match=r"terminat|closed"):
            session.execute("SELECT 1")
    assert "password authentication failed" in bed.refused(dead)
    assert bed.who(alive)[0] == alive.username


def test_a_static_role_keeps_its_name_and_its_old_password_is_dead(bed: Bed):
    old = bed.source.lease("svc")
    assert bed.who(old) == ("svc", "svc")
    bed.source.rotate("svc")
    new = bed.source.lease("svc")
    assert bed.who(new) == ("svc", "svc")
    assert new.lives_s is not None
    assert 0 < new.lives_s <= 86_400
    assert "password authentication failed" in bed.refused(old)
    with pytest.raises(SecretRefused, match="static role"):
        bed.source.revoke(new)


def test_a_role_that_is_not_there_is_missing(bed: Bed):
    with pytest.raises(SecretMissing, match="no role 'other'"):
        bed.source.lease("other")


def test_a_lease_is_revoked_twice_without_harm(bed: Bed):
    dead, alive = bed.source.lease("app"), bed.source.lease("app")
    bed.source.revoke(dead)
    bed.source.revoke(dead)
    assert "password authentication failed" in bed.refused(dead)
    assert bed.who(alive)[0] == alive.username


def test_a_policy_for_the_static_role_alone_is_enough_for_it_and_for_no_more(bed: Bed):
    source = bed.opened(f'path "{bed.engine}/static-creds/svc" {{ capabilities = ["read"] }}')
    assert bed.who(source.lease("svc"))[0] == "svc"
    for call in (
        lambda: source.lease("app"),
        lambda: source.rotate("svc"),
        lambda: source.revoke(bed.source.lease("app")),
    ):
        with pytest.raises(SecretRefused, match="permission denied"):
            call()


def dbsec(bed: Bed, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dbsec", "secrets", *argv, "--source", bed.uri]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_issues_a_credential_into_a_private_file_and_ends_it(bed: Bed, tmp_path: Path):
    kept = tmp_path / "credential.json"
    done = dbsec(bed, "lease", "app", "--to", str(kept), "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(kept.read_text())
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert told["password"] not in done.stdout
    assert json.loads(done.stdout)["result"] == {word: text for word, text in told.items() if word != "password"}
    issued = Lease("app", told["lease_id"], told["username"], Secret(told["password"]), told["lives_s"])
    assert bed.who(issued) == (issued.username, "app_rw")
    done = dbsec(bed, "revoke", "app", issued.id)
    assert (done.returncode, done.stdout) == (0, f"{issued.id} is revoked\n")
    assert "password authentication failed" in bed.refused(issued)


def test_the_command_rotates_a_static_role(bed: Bed):
    old = bed.source.lease("svc")
    assert dbsec(bed, "rotate", "svc").returncode == 0
    assert "password authentication failed" in bed.refused(old)
    shown = json.loads(dbsec(bed, "lease", "svc", "--reveal", "--format", "json").stdout)["result"]
    assert bed.who(Lease("svc", "", shown["username"], Secret(shown["password"]), None))[0] == "svc"


def test_a_credential_that_nobody_could_see_or_keep_does_not_live(bed: Bed, tmp_path: Path):
    before = _logins(bed)
    done = dbsec(bed, "lease", "app")
    assert (done.returncode, "--to FILE" in done.stderr) == (2, True)
    (tmp_path / "there").mkdir()
    done = dbsec(bed, "lease", "app", "--to", str(tmp_path / "there"))
    assert (done.returncode, "the credential was revoked" in done.stderr) == (2, True)
    assert _logins(bed) == before


def _logins(bed: Bed) -> set[str]:
    with connect(bed.server) as admin:
        return {name for (name,) in admin.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%'").fetchall()}


def test_a_role_that_is_not_there_is_told_without_a_traceback(bed: Bed):
    done = dbsec(bed, "lease", "other", "--reveal")
    assert (done.returncode, done.stdout) == (3, "")
    assert "has no role 'other'" in done.stderr
    assert "Traceback" not in done.stderr
