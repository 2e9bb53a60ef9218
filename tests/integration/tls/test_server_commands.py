"""``dbsec tls plan, apply, check, status, rotate`` as processes, on real servers of each major."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from dbsec.clock import SYSTEM
from dbsec.errors import ApplyError, ConfigError
from dbsec.pg import Conninfo, connect
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster
from dbsec.tls import rotation, server_config, status
from dbsec.tls.ca import Authority, KeyPair
from dbsec.tls.data_folder import DataFolder
from dbsec.tls.posture import Posture, hba
from dbsec.tls.server_plan import plan
from dbsec.tls.status import Rule

pytestmark = [pytest.mark.pg(15, 17, 18)]
PASSWORD = Secret("a password of the tests")
AUTHORITY = Authority.create("the site's CA")
NAMES = ["localhost", "127.0.0.1"]
SSL = ("ssl_cert_file", "ssl_key_file")


@dataclass(frozen=True)
class Bed:
    """One server, the files that [tls] names, and the command's environment."""

    cluster: Cluster
    folder: Path

    @property
    def admin(self) -> Conninfo:
        return self.cluster.admin.but(sslmode="verify-full", sslrootcert=self.folder / "ca.crt")

    @property
    def data(self) -> DataFolder:
        return DataFolder(self.cluster.instance.data)

    def run(self, *argv: str | Path, code: int = 0, admin: Conninfo | None = None) -> subprocess.CompletedProcess[str]:
        login = admin or self.admin
        command = [sys.executable, "-m", "dbsec", "tls", *argv, "--dsn", "env:ADMIN", "--data-dir", self.data.path]
        environ = {**os.environ, "ADMIN": login.text()}
        ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, cwd=self.folder)
        assert ran.returncode == code, ran.stdout + ran.stderr
        assert "PRIVATE" not in ran.stdout + ran.stderr
        return ran

    def names(self, *argv: str | Path) -> set[str]:
        """Return the names of the findings of a command."""
        return {one["name"] for one in json.loads(self.run(*argv, "--format", "json", code=1).stdout)["findings"]}


def keep(folder: Path, name: str, pair: KeyPair) -> Path:
    return pair.save(folder, name)[0]


@pytest.fixture
def bed(cluster_factory: Callable[..., Cluster], tmp_path: Path, pg_major: int) -> Bed:
    cluster = cluster_factory()
    with connect(cluster.admin) as admin:
        for role in ("app_readwrite", "app_migrator"):
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), PASSWORD.reveal()))
    keep(tmp_path, "server", AUTHORITY.issue_server(NAMES))
    (tmp_path / "ca.crt").write_bytes(AUTHORITY.certificate)
    (tmp_path / "root.crl").write_bytes(AUTHORITY.crl([]))
    newest = 'ssl_groups = "X25519:prime256v1"\nssl_tls13_ciphers = "TLS_AES_256_GCM_SHA384"' if pg_major >= 18 else ""
    (tmp_path / "dbsec.toml").write_text(
        f"""
[tls]
networks = ["127.0.0.1/32"]
scram = ["app_readwrite"]
mtls = ["app_migrator"]
replication = []
certificate = "server.crt"
server_ca = "ca.crt"
client_ca = "ca.crt"
crl = "root.crl"
[tls.settings]
ssl_ciphers = "ECDHE+AESGCM:ECDHE+CHACHA20"
{newest}
"""
    )
    return Bed(cluster, tmp_path)


def test_planned_applied_checked_and_drifted(bed: Bed, pg_major: int):
    plain = bed.cluster.admin
    assert "hostnossl" in bed.run("plan", code=1, admin=plain).stdout
    assert "add --apply" in bed.run("apply", admin=plain).stdout
    bed.run("plan", code=1, admin=plain)
    assert "the login came back" in bed.run("apply", "--apply", "--drain", "1s", admin=plain).stdout
    assert bed.run("plan").stdout == "nothing to change\n"
    assert "no findings" in bed.run("check").stdout
    assert "no findings" in bed.run("status").stdout
    if pg_major >= 18:
        told = json.loads(bed.run("status", "--format", "json").stdout)["result"]["wire"]
        assert [one["name"] for one in told["suites"]["TLSv1.3"]] == ["TLS_AES_256_GCM_SHA384"]
        assert told["groups"] == ["x25519", "secp256r1"]
    measured = bed.run("status", "--format", "prometheus").stdout
    assert 'dbsec_tls_sessions{protection="in clear"} 0.0' in measured
    with connect(bed.admin) as admin:
        admin.execute("ALTER SYSTEM SET ssl_min_protocol_version = 'TLSv1.3'")
        server_config.reload(admin)
    assert bed.names("check") == {"allow-drift"}


def test_status_names_each_contradiction(bed: Bed):
    bed.run("apply", "--apply", admin=bed.cluster.admin)
    other, authority = AUTHORITY.issue_server(NAMES), Authority.create("another CA")
    changes: dict[str, tuple[set[str], dict[str, bytes]]] = {
        "not reloaded": ({"allow-unserved-certificate"}, {"server.crt": other.certificate, "server.key": other.key}),
        "mismatched": (
            {"allow-mismatched-key", "allow-unserved-certificate"},
            {"server.crt": other.certificate},
        ),
        "hba in clear": ({"allow-path-in-clear"}, {"pg_hba.conf": b"host all all all scram-sha-256\n"}),
        "hba broken": ({"allow-unread-hba", "allow-path-in-clear"}, {"pg_hba.conf": b"host all all all nonsense\n"}),
        "stale list": (
            {"allow-stale-crl"},
            {"root.crl": AUTHORITY.crl([], start=SYSTEM.now() - timedelta(days=6))},
        ),
    }
    assert authority
    for what, (names, files) in changes.items():
        before = {name: bed.data.read(name) for name in files}
        for name, content in files.items():
            bed.data.write(name, content)
        found = bed.names("status")
        assert found == (names - {"allow-path-in-clear"} if what == "hba broken" else names), what
        for name, content in before.items():
            bed.data.restore(name, content)
    bed.run("status")
    short = AUTHORITY.issue_server(NAMES, lifetime=timedelta(days=5))
    bed.run("rotate", "--certificate", keep(bed.folder, "short", short), "--ca", bed.folder / "ca.crt", "--apply")
    assert bed.names("status") == {"allow-expiry"}
    with connect(bed.admin) as admin:
        admin.execute("ALTER SYSTEM SET ssl_crl_file = ''")
        server_config.reload(admin)
        assert {one.name for one in status.judge(status.read(admin, bed.data), now=SYSTEM.now())} == {
            "allow-expiry",
            "allow-no-crl",
        }


@contextmanager
def load(login: Conninfo) -> Iterator[list[str]]:
    """Connect anew all the time, from two threads; yields what failed."""
    over, failed, done = threading.Event(), list[str](), [0, 0]

    def connects(at: int) -> None:
        while not over.is_set():
            try:
                with psycopg.connect(login.text()) as session:
                    session.execute("SELECT 1")
                done[at] += 1
            except psycopg.Error as exc:
                failed.append(str(exc))

    threads = [threading.Thread(target=connects, args=(at,)) for at in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield failed
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert min(done) > 5


def test_five_rotations_under_load_lose_no_request_and_no_session(bed: Bed):
    bed.run("apply", "--apply", admin=bed.cluster.admin)
    service = bed.admin.but(user="app_readwrite", password=PASSWORD)
    with connect(bed.admin) as admin, connect(service) as long_lived, load(service) as failed:
        server = rotation.PostgresServer(admin, bed.admin, bed.data)
        for _ in range(5):
            pair = AUTHORITY.issue_server(NAMES)
            done = rotation.rotate(server, rotation.Change(pair, AUTHORITY.certificate, crl=AUTHORITY.crl([])))
            assert (done.new, done.new != done.old) == (pair.fingerprint, True)
            assert done.sessions_before >= 1
        assert long_lived.execute("SELECT 1").fetchone() == (1,)
    assert failed == []


def test_another_client_ca_overlaps_with_the_old(bed: Bed):
    bed.run("apply", "--apply", admin=bed.cluster.admin)
    another = Authority.create("the next CA")
    login = bed.admin.but(user="app_migrator", password=PASSWORD)

    def comes_in(authority: Authority) -> bool:
        certificate, key = authority.issue_client("app_migrator").save(bed.folder, "client")
        try:
            connect(login.but(sslcert=certificate, sslkey=key)).close()
        except Exception:
            return False
        return True

    with connect(bed.admin) as admin:
        server = rotation.PostgresServer(admin, bed.admin, bed.data)
        admin.execute("ALTER SYSTEM SET ssl_crl_file = ''")  # a list of the old CA alone would refuse the new one's
        pair = AUTHORITY.issue_server(NAMES)
        change = rotation.Change(pair, AUTHORITY.certificate, client_ca=another.certificate)
        rotation.rotate(server, change)
        assert (comes_in(AUTHORITY), comes_in(another)) == (True, True)
        rotation.rotate(server, replace(change, drop_old_ca=True))
        assert (comes_in(AUTHORITY), comes_in(another)) == (False, True)


def test_what_may_not_be_served_is_refused_before_anything_is_written(bed: Bed):
    bed.run("apply", "--apply", admin=bed.cluster.admin)
    good, ca = AUTHORITY.issue_server(NAMES), AUTHORITY.certificate
    bad = {
        "lose the name": rotation.Change(AUTHORITY.issue_server(["localhost"]), ca),
        "does not belong": rotation.Change(KeyPair(good.certificate, AUTHORITY.issue_server(NAMES).key), ca),
        "not issued by this CA": rotation.Change(Authority.create("x").issue_server(NAMES), ca),
        "not now": rotation.Change(AUTHORITY.issue_server(NAMES, start=SYSTEM.now() + timedelta(days=2)), ca),
        "not for serverAuth": rotation.Change(AUTHORITY.issue_client("postgres"), ca),
        "out of date": rotation.Change(good, ca, crl=AUTHORITY.crl([], start=SYSTEM.now() - timedelta(days=8))),
    }
    with connect(bed.admin) as admin:
        server = rotation.PostgresServer(admin, bed.admin, bed.data)
        before = bed.data.read("server.crt")
        for told, change in bad.items():
            with pytest.raises(ConfigError) as caught:
                rotation.rotate(server, change)
            # a client's certificate has no name to lose, and that is told first
            assert told in str(caught.value) or (told.startswith("not for") and "lose" in str(caught.value)), told
            assert bed.data.read("server.crt") == before


class Killed(BaseException):
    """Stands for a kill that lets no clean-up run."""


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], None]:
    """Let the n-th write of a server's file be the last; what would clean up does nothing."""
    real, writes = DataFolder.write, [0]

    def write(self: DataFolder, name: str, data: bytes, *, mode: int | None = None) -> None:
        if writes[0] == step:
            raise Killed
        writes[0] += 1
        real(self, name, data, mode=mode)

    monkeypatch.setattr(DataFolder, "write", write)
    monkeypatch.setattr(server_config._Change, "put_back", lambda *_, **__: None)
    monkeypatch.setattr(rotation, "_put_back", lambda *_, **__: None)
    return monkeypatch.undo


@pytest.mark.pg(17)
def test_a_killed_apply_or_rotation_is_put_back_by_the_next(bed: Bed, monkeypatch: pytest.MonkeyPatch):
    files = ("server.crt", "server.key", "root.crt", "root.crl", "pg_hba.conf")
    pair, ca = AUTHORITY.issue_server(NAMES), AUTHORITY.certificate
    wanted = Posture(pair, ca, ca, hba(admin="postgres", scram=["app_readwrite"], mtls=[], replication=[]))
    wanted = replace(wanted, crl=AUTHORITY.crl([]))
    untouched = {name: bed.data.read(name) for name in files}
    for step in range(1, 7):
        with connect(bed.cluster.admin) as admin:
            planned = plan(admin, bed.data, wanted)
        undo = killed_at(monkeypatch, step)
        try:
            server_config.apply(bed.cluster.admin, bed.data, planned)
            whole = True
        except (Killed, ApplyError):
            whole = False
        undo()
        if whole:
            break
        server_config.recover(bed.cluster.admin, bed.data)
        assert {name: bed.data.read(name) for name in files} == untouched, step
    assert whole, "six writes are all"

    served = {name: bed.data.read(name) for name in files}
    with connect(bed.admin) as admin:
        server = rotation.PostgresServer(admin, bed.admin, bed.data)
        change = rotation.Change(AUTHORITY.issue_server(NAMES), ca, crl=AUTHORITY.crl([], number=2))
        for step in range(1, 4):
            undo = killed_at(monkeypatch, step)
            with pytest.raises((Killed, ApplyError)):
                rotation.rotate(server, change)
            undo()
            assert rotation.recover(server)
            assert {name: bed.data.read(name) for name in files} == served, step
        rotation.rotate(server, change)
        assert not rotation.recover(server)


@pytest.mark.pg(17)
def test_a_refused_reload_is_rolled_back(bed: Bed, monkeypatch: pytest.MonkeyPatch):
    bed.run("apply", "--apply", admin=bed.cluster.admin)
    before = bed.data.read("server.crt")
    with connect(bed.admin) as admin:
        server = rotation.PostgresServer(admin, bed.admin, bed.data)
        good = AUTHORITY.issue_server(NAMES)
        monkeypatch.setattr(rotation, "preflight", lambda *_, **__: None)  # nothing looks before
        change = rotation.Change(KeyPair(good.certificate, AUTHORITY.issue_server(NAMES).key), AUTHORITY.certificate)
        with pytest.raises(ApplyError, match="rolled back"):
            rotation.rotate(server, change, within_s=0.5)
        assert bed.data.read("server.crt") == before
        lonely = rotation.Change(Authority.create("unknown").issue_server(NAMES), AUTHORITY.certificate)
        with pytest.raises(ApplyError, match="rolled back"):
            rotation.rotate(server, lonely)
        assert server.served() == KeyPair(before or b"", b"").fingerprint


@pytest.mark.parametrize(
    ("lines", "clear"),
    [
        ("hostssl all all all scram", []),
        ("host all all all scram", [1]),
        ("hostnossl all all all reject|host all all all scram", []),
        ("hostnossl all app all reject|host all all all scram", [2]),
        ("hostnossl all all 10.0.0.0/8 reject|host all all 10.1.0.0/16 scram|host all all 11.0.0.0/8 scram", [3]),
        ("hostnossl all all 0.0.0.0/0 reject|host all all ::/0 scram", [2]),
        ("hostnossl all all all reject|host replication all all scram", [2]),
        ("hostnossl all,replication all all reject|host all,replication all all scram", []),
        ("hostssl all all all reject|host all all all scram", [2]),
    ],
    ids=str,
)
@pytest.mark.pg(17)
def test_the_first_match_decides_whether_a_login_in_clear_begins(lines: str, clear: list[int]):
    rules = []
    for number, line in enumerate(lines.split("|"), 1):
        kind, databases, users, address, method = line.split()
        rules.append(Rule(number, kind, tuple(databases.split(",")), tuple(users.split(",")), address, method))
    assert [rule.line for rule in status.clear_paths(rules)] == clear
