"""MariaDB in transit: what is refused, and for which reason; each between two logins that must succeed."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pymysql
import pytest
from tests.daemons import Daemon, Daemons, password

from dbsec.clock import SYSTEM
from dbsec.errors import ApplyError, ConfigError
from dbsec.lab import ports
from dbsec.tls.ca import Authority, KeyPair, self_signed
from dbsec.tls.context import client_context
from dbsec.tls.data_folder import DataFolder
from dbsec.tls.mariadb import MariaDbServer
from dbsec.tls.prober import Protocol, judge, policy, probe
from dbsec.tls.prober.greeting import Plaintext, Target
from dbsec.tls.rotation import Change, rotate

AUTHORITY, ANOTHER = Authority.create("the site's CA"), Authority.create("another CA")
PASSWORD = password()
ACCESS_DENIED, NO_TLS = 1045, 3159
REVOKED = AUTHORITY.issue_client("mtls")
GOOD = AUTHORITY.issue_server(["localhost", "127.0.0.1"])
USERS = {"app": "REQUIRE SSL", "x509": "REQUIRE X509", "mtls": "REQUIRE SUBJECT '/CN=mtls'"}
OPTIONS = """
ssl-cert={0}/server.crt
ssl-key={0}/server.key
ssl-ca={0}/root.crt
ssl-crl={0}/root.crl
ssl-cipher=ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256
tls-version=TLSv1.2,TLSv1.3
require-secure-transport=ON
skip-name-resolve
"""


@dataclass(frozen=True)
class Bed:
    """One server, and logins to it."""

    daemon: Daemon

    def login(self, user: str, *, client: KeyPair | None = None, host: str = "localhost") -> Any:
        context = client_context(AUTHORITY.certificate, client)
        # up to TLS 1.2 a refused client certificate ends the handshake; later the alert races with the first write
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return self.by(user, context, host=host)

    def by(self, user: str, context: ssl.SSLContext, *, host: str = "localhost") -> Any:
        return pymysql.connect(
            host=host, port=self.daemon.port, user=user, password=PASSWORD, ssl=context, connect_timeout=5
        )

    def root(self) -> Any:
        return pymysql.connect(unix_socket=str(self.daemon.folder / "s"), user="root", autocommit=True)

    def serve(self, pair: KeyPair) -> None:
        """Serve a certificate unchecked, as a bad server would."""
        self.daemon.write("server.key", pair.key)
        self.daemon.write("server.crt", pair.certificate)
        with closing(self.root()) as root:
            root.cursor().execute("FLUSH SSL")

    @contextmanager
    def good_around(self, user: str = "app", client: KeyPair | None = None) -> Iterator[None]:
        """Log in before and after: a server that refuses everyone proves nothing."""
        self.login(user, client=client).close()
        yield
        self.login(user, client=client).close()


@pytest.fixture(scope="module")
def bed(daemons: Daemons) -> Bed:
    given = {
        "server.crt": GOOD.certificate,
        "server.key": GOOD.key,
        "root.crt": AUTHORITY.certificate,
        "root.crl": AUTHORITY.crl([REVOKED.x509.serial_number]),
    }
    made = Bed(daemons.mariadb(OPTIONS.format, given))
    with closing(made.root()) as root:
        for user, demand in USERS.items():
            root.cursor().execute(f"CREATE USER {user}@'%' IDENTIFIED BY '{PASSWORD}' {demand}")
    return made


def refused(login: Callable[[], Any]) -> pymysql.err.OperationalError:
    with pytest.raises(pymysql.err.OperationalError) as caught:
        login().close()
    return caught.value


def test_the_probe_finds_what_the_policy_wants(bed: Bed):
    seen = probe(Target("127.0.0.1", bed.daemon.port, Protocol.AUTO, "app"), ca=AUTHORITY.certificate)
    assert seen.target.protocol is Protocol.MYSQL
    assert set(seen.suites) == {"TLSv1.2", "TLSv1.3"}
    assert seen.chain[0].fingerprint == GOOD.fingerprint
    # without a password nobody learns whether a login in clear fails for the want of TLS: it is told, as a warning
    assert seen.plaintext is Plaintext.UNKNOWN
    found = judge(seen, policy("intermediate"), now=SYSTEM.now())
    assert [(one.name, str(one.severity)) for one in found] == [("allow-unknown-plaintext", "warning")]
    assert seen.seconds < 1


def test_a_login_in_clear_is_refused_until_it_is_allowed(bed: Bed):
    def in_clear() -> Any:
        return pymysql.connect(
            host="127.0.0.1", port=bed.daemon.port, user="plain", password=PASSWORD, ssl_disabled=True
        )

    with closing(bed.root()) as root, bed.good_around():
        root.cursor().execute(f"CREATE USER plain@'%' IDENTIFIED BY '{PASSWORD}'")
        assert refused(in_clear).args[0] in (NO_TLS, ACCESS_DENIED)
        root.cursor().execute("SET GLOBAL require_secure_transport = OFF")
        in_clear().close()  # the mutation: without its control it is let in
        seen = probe(Target("127.0.0.1", bed.daemon.port, Protocol.MYSQL, "plain"))
        assert seen.plaintext is not Plaintext.REFUSED
        root.cursor().execute("SET GLOBAL require_secure_transport = ON")
        root.cursor().execute("DROP USER plain@'%'")


SERVED: dict[str, tuple[int, Callable[[], KeyPair]]] = {
    "wrong-host": (64, lambda: AUTHORITY.issue_server(["elsewhere.invalid"])),
    "wrong-ca": (20, lambda: ANOTHER.issue_server(["localhost", "127.0.0.1"])),
    "expired": (
        10,
        lambda: AUTHORITY.issue_server(
            ["localhost", "127.0.0.1"], start=SYSTEM.now() - timedelta(days=9), lifetime=timedelta(days=8)
        ),
    ),
    "not-yet-valid": (9, lambda: AUTHORITY.issue_server(["127.0.0.1"], start=SYSTEM.now() + timedelta(days=1))),
    "self-signed": (18, lambda: self_signed(["localhost", "127.0.0.1"])),
}


@pytest.mark.parametrize("name", SERVED)
def test_a_bad_certificate_is_turned_away_from_by_its_code(bed: Bed, name: str):
    code, make = SERVED[name]
    with bed.good_around():
        bed.serve(make())
        try:
            error = refused(lambda: bed.login("app", host="127.0.0.1"))
            careless = client_context(None)
            bed.by("app", careless, host="127.0.0.1").close()  # the mutation: who looks at nothing logs in
        finally:
            bed.serve(GOOD)
    cause = error.original_exception
    assert isinstance(cause, ssl.SSLCertVerificationError)
    assert cause.verify_code == code


def late(role: str) -> KeyPair:
    return AUTHORITY.issue_client(role, start=SYSTEM.now() - timedelta(days=9), lifetime=timedelta(days=8))


CLIENTS: dict[str, tuple[str, Callable[[], KeyPair | None], int | str]] = {
    "x509-without": ("x509", lambda: None, ACCESS_DENIED),
    "subject-without": ("mtls", lambda: None, ACCESS_DENIED),
    "subject-another-name": ("mtls", lambda: AUTHORITY.issue_client("mallory"), ACCESS_DENIED),
    "wrong-ca": ("mtls", lambda: ANOTHER.issue_client("mtls"), "unknown ca"),
    "expired": ("mtls", lambda: late("mtls"), "certificate expired"),
    "revoked": ("mtls", lambda: REVOKED, "certificate revoked"),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_without_the_right_certificate_is_refused(bed: Bed, name: str):
    user, make, reason = CLIENTS[name]
    with bed.good_around(user, AUTHORITY.issue_client(user)):
        error = refused(lambda: bed.login(user, client=make()))
    if isinstance(reason, int):
        assert error.args[0] == reason
        with closing(bed.root()) as root:
            root.cursor().execute(f"ALTER USER {user}@'%' REQUIRE SSL")
            bed.login(user, client=make()).close()  # the mutation
            root.cursor().execute(f"ALTER USER {user}@'%' {USERS[user]}")
    else:
        assert reason in str(error).lower().replace("_", " ")


def server(bed: Bed) -> MariaDbServer:
    def connect(context: ssl.SSLContext) -> Any:
        with closing(bed.root()) as root:
            root.cursor().execute(f"CREATE USER IF NOT EXISTS rotator@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL")
            root.cursor().execute("GRANT RELOAD, PROCESS ON *.* TO rotator@'%'")
        return bed.by("rotator", context)

    return MariaDbServer(connect, DataFolder(bed.daemon.folder), address="127.0.0.1", port=bed.daemon.port)


def test_five_rotations_under_load_lose_no_request_and_no_session(bed: Bed):
    over, failed, done = threading.Event(), list[str](), [0]

    def connects() -> None:
        while not over.is_set():
            try:
                bed.login("app").close()
                done[0] += 1
            except pymysql.Error as exc:
                failed.append(str(exc))

    target = server(bed)
    with closing(bed.login("app")) as long_lived:
        thread = threading.Thread(target=connects)
        thread.start()
        try:
            for _ in range(5):
                pair = AUTHORITY.issue_server(["localhost", "127.0.0.1"])
                rotated = rotate(target, Change(pair, AUTHORITY.certificate))
                assert (rotated.new, rotated.sessions_before >= 1) == (pair.fingerprint, True)
        finally:
            over.set()
            thread.join()
        long_lived.ping(reconnect=False)
    assert failed == []
    assert done[0] > 5


def test_a_rotation_that_fails_is_put_back(bed: Bed, monkeypatch: pytest.MonkeyPatch):
    target = server(bed)
    before = target.served()
    with pytest.raises(ConfigError, match="lose the name"):
        rotate(target, Change(AUTHORITY.issue_server(["localhost"]), AUTHORITY.certificate))
    monkeypatch.setattr("dbsec.tls.rotation.preflight", lambda *_, **__: None)
    mixed = KeyPair(GOOD.certificate, AUTHORITY.issue_server(["localhost"]).key)
    with pytest.raises(ApplyError, match="rolled back"):
        rotate(target, Change(mixed, AUTHORITY.certificate), within_s=0.5)
    assert target.served() == before
    bed.login("app").close()


def test_the_command_rotates_it(bed: Bed, tmp_path: Path):
    server(bed)  # makes the login
    AUTHORITY.issue_server(["localhost", "127.0.0.1"]).save(tmp_path, "next")
    (tmp_path / "ca.crt").write_bytes(AUTHORITY.certificate)
    environ = {**os.environ, "ADMIN": f"mysql://rotator:{PASSWORD}@127.0.0.1:{bed.daemon.port}/"}
    argv = [sys.executable, "-m", "dbsec", "tls", "rotate", "--server", "mariadb", "--dsn", "env:ADMIN"]
    argv += ["--data-dir", str(bed.daemon.folder), "--certificate", "next.crt", "--ca", "ca.crt", "--apply"]
    ran = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert (ran.returncode, "served after" in ran.stdout) == (0, True), ran.stderr
    assert PASSWORD not in ran.stdout + ran.stderr


def test_a_server_in_clear_is_planned_applied_and_rolled_back(daemons: Daemons, tmp_path: Path):
    made = daemons.mariadb(lambda folder: f"skip-name-resolve\n!include {folder}/tls.cnf", {"tls.cnf": "[mysqld]\n"})
    plain = Bed(made)
    with closing(plain.root()) as root:
        for user in ("boss", "app", "mtls"):
            root.cursor().execute(f"CREATE USER {user}@'%' IDENTIFIED BY '{PASSWORD}'")
        root.cursor().execute("GRANT ALL ON *.* TO boss@'%' WITH GRANT OPTION")
    AUTHORITY.issue_server(["localhost", "127.0.0.1"]).save(tmp_path, "server")
    (tmp_path / "ca.crt").write_bytes(AUTHORITY.certificate)
    (tmp_path / "root.crl").write_bytes(AUTHORITY.crl([REVOKED.x509.serial_number]))
    files = made.folder / "tls"
    files.mkdir()
    os.chown(files, made.account.uid, made.account.gid)
    environ = {**os.environ, "BOSS": f"mysql://boss:{PASSWORD}@127.0.0.1:{made.port}/"}

    def ran(*more: str, code: int = 0) -> str:
        argv = [sys.executable, "-m", "dbsec", "tls", "apply-mariadb", "--dsn", "env:BOSS", "--dir", str(files)]
        argv += ["--option-file", str(made.folder / "tls.cnf"), "--certificate", "server.crt", "--ca", "ca.crt"]
        argv += ["--crl", "root.crl", "--require", "app@%=SSL", "--require", "mtls@%=SUBJECT '/CN=mtls'", *more]
        told = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        assert told.returncode == code, told.stdout + told.stderr
        assert PASSWORD not in told.stdout + told.stderr
        return told.stdout + told.stderr

    assert "add --apply" in ran()
    assert list(files.iterdir()) == []
    assert "restart the server, then apply again" in ran("--apply")
    # nothing is required before the restart
    how = {"host": "127.0.0.1", "port": made.port, "user": "app", "password": PASSWORD, "ssl_disabled": True}
    pymysql.connect(**how).close()
    daemons.restarted(made, lambda: (made.folder / "s").exists() and ports.taken(made.port))
    assert "account      mtls@%: REQUIRE NONE -> SUBJECT '/CN=mtls'" in ran()
    # whoever applies may not shut himself out: his own account would need a certificate that he has not
    assert "rolled back" in ran("--apply", "--require", "boss@%=X509", code=3)
    plain.login("mtls").close()
    assert "applied, and proven" in ran("--apply")
    assert ran() == "nothing to change\n"
    with plain.good_around("mtls", AUTHORITY.issue_client("mtls")):
        assert refused(lambda: plain.login("mtls")).args[0] == ACCESS_DENIED
        in_clear = refused(lambda: pymysql.connect(**how))
        assert in_clear.args[0] in (NO_TLS, ACCESS_DENIED)
    assert "is no account" in ran("--require", "nobody=SSL", code=2)
    assert "nothing to require" in ran("--require", "app@%=SSL; DROP USER app", code=2)
