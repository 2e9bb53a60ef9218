"""PgBouncer with TLS on both sides: who is refused, what is not protected, and rotation under its clients."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from tests.daemons import Daemon, Daemons, password

from dbsec.clock import SYSTEM
from dbsec.pg import Conninfo, connect
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster
from dbsec.tls import pooler, probe
from dbsec.tls.ca import Authority, KeyPair
from dbsec.tls.context import Alert
from dbsec.tls.probe import Tls
from dbsec.tls.prober import Protocol, judge, policy
from dbsec.tls.prober import probe as probed
from dbsec.tls.prober.greeting import Plaintext, Target
from dbsec.tls.rotation import Change, rotate
from dbsec.tls.stranger import refusal

AUTHORITY, ANOTHER = Authority.create("the site's CA"), Authority.create("another CA")
GATEWAY, CLIENT = password(), password()
NAMES = ["localhost", "127.0.0.1"]
HBA = "hostssl all app_gateway all scram-sha-256 clientcert=verify-full\nhostssl all postgres all scram-sha-256\n"
CONFIG = """
[databases]
app = host=localhost port={pg} dbname=postgres user=app_gateway password={gateway}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
admin_users = console
pool_mode = transaction
server_login_retry = 1
client_tls_sslmode = verify-full
client_tls_ca_file = {folder}/root.crt
client_tls_cert_file = {folder}/bouncer.crt
client_tls_key_file = {folder}/bouncer.key
client_tls_protocols = secure
client_tls_ciphers = ECDHE+AESGCM:ECDHE+CHACHA20
server_tls_sslmode = verify-full
server_tls_ca_file = {folder}/root.crt
server_tls_cert_file = {folder}/gateway.crt
server_tls_key_file = {folder}/gateway.key
server_tls_protocols = secure
ignore_startup_parameters = extra_float_digits
"""


@dataclass(frozen=True)
class Bed:
    """PgBouncer before PostgreSQL; ``login`` comes in as a client, by a certificate."""

    daemon: Daemon
    folder: Path
    pg_port: int

    def login(self, pair: KeyPair | None, *, user: str = "client", port: int = 0) -> Conninfo:
        (self.folder / "ca.crt").write_bytes(AUTHORITY.certificate)
        found = Conninfo.local(
            port or self.daemon.port, user=user, dbname="app", password=Secret(CLIENT),
            sslmode="verify-full", sslrootcert=self.folder / "ca.crt", require_auth="scram-sha-256",
        )  # fmt: skip
        if pair is None:
            return found.but(sslcertmode="disable")
        certificate, key = pair.save(self.folder, f"client-{pair.fingerprint[:8]}")
        return found.but(sslcert=certificate, sslkey=key)

    @contextmanager
    def good_around(self) -> Iterator[None]:
        good = self.login(AUTHORITY.issue_client("client"))
        assert refusal(good) is None
        yield
        assert refusal(good) is None


@pytest.fixture(scope="module")
def postgres(cluster_factory: Callable[..., Cluster]) -> Cluster:
    cluster = cluster_factory()
    pair, instance = AUTHORITY.issue_server(NAMES), cluster.instance
    with connect(cluster.admin) as admin:
        admin.execute(f"CREATE ROLE app_gateway LOGIN PASSWORD '{GATEWAY}'")
    files = {"server.crt": pair.certificate, "server.key": pair.key, "root.crt": AUTHORITY.certificate}
    for name, content in {**files, "pg_hba.conf": HBA}.items():
        instance.write(name, content)
    instance.configure({"ssl": "on", "ssl_ca_file": "root.crt"})
    instance.reload()
    return cluster


def bouncer(daemons: Daemons, cluster: Cluster, gateway: KeyPair, *changes: tuple[str, str]) -> Daemon:
    served = AUTHORITY.issue_server(NAMES)
    given: dict[str, bytes | str] = {
        "bouncer.crt": served.certificate, "bouncer.key": served.key, "root.crt": AUTHORITY.certificate,
        "gateway.crt": gateway.certificate, "gateway.key": gateway.key,
        "users.txt": f'"client" "{CLIENT}"\n"console" "{CLIENT}"\n',
    }  # fmt: skip

    def config(folder: Path, port: int) -> str:
        text = CONFIG.format(folder=folder, port=port, pg=cluster.instance.port, gateway=GATEWAY)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        return text

    return daemons.pgbouncer(config, given)


@pytest.fixture(scope="module")
def bed(daemons: Daemons, postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Bed:
    made = bouncer(daemons, postgres, AUTHORITY.issue_client("app_gateway"))
    return Bed(made, tmp_path_factory.mktemp("clients"), postgres.instance.port)


def test_both_legs_are_encrypted_and_the_server_sees_the_gateways_certificate(bed: Bed):
    with connect(bed.login(AUTHORITY.issue_client("client"))) as session:
        seen = session.execute(
            "SELECT ssl, version, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).fetchone()
    assert seen == (True, "TLSv1.3", "/CN=app_gateway")


def test_the_probe_finds_what_the_policy_wants(bed: Bed):
    seen = probed(Target("127.0.0.1", bed.daemon.port, Protocol.AUTO, "client", "app"), ca=AUTHORITY.certificate)
    assert (seen.plaintext, seen.direct) == (Plaintext.REFUSED, False), seen.plaintext_words
    assert judge(seen, policy("intermediate"), now=SYSTEM.now()) == []
    assert seen.seconds < 1


@pytest.mark.parametrize(
    ("make", "alert"),
    [
        (lambda: None, (Alert.CERTIFICATE_REQUIRED, Alert.HANDSHAKE_FAILURE)),
        (lambda: ANOTHER.issue_client("client"), (Alert.UNKNOWN_CA,)),
    ],
    ids=["without", "wrong-ca"],
)
def test_a_client_without_the_right_certificate_is_refused_by_an_alert(bed: Bed, make, alert):
    with bed.good_around():
        tls = Tls("localhost", client=make())
        answer = probe.login_reply("127.0.0.1", bed.daemon.port, user="client", dbname="app", tls=tls)
    assert answer.request is None
    assert answer.alert in alert


def test_wrong_password_and_plaintext_are_refused(bed: Bed):
    good = bed.login(AUTHORITY.issue_client("client"))
    with bed.good_around():
        assert "authentication failed" in (refusal(good.but(password=Secret("wrong"))) or "")
        answer = probe.login_reply("127.0.0.1", bed.daemon.port, user="client", dbname="app", tls=None)
        assert (answer.request, answer.sqlstate) == (None, "08P01")


def test_the_gateway_needs_its_certificate_at_the_server(bed: Bed, daemons: Daemons, postgres: Cluster):
    """The twins: straight to PostgreSQL without a certificate; and PgBouncer under another name."""
    straight = bed.login(AUTHORITY.issue_client("app_gateway"), user="app_gateway", port=bed.pg_port)
    straight = straight.but(dbname="postgres", password=Secret(GATEWAY))
    assert refusal(straight) is None
    without = straight.but(sslcert=None, sslkey=None, sslcertmode="disable")
    assert "requires a valid client certificate" in (refusal(without) or "")
    other = bouncer(daemons, postgres, AUTHORITY.issue_client("mallory"))
    twin = bed.login(AUTHORITY.issue_client("client"), port=other.port)
    with bed.good_around():
        assert refusal(twin) is not None
    assert "do not match" in postgres.instance.log.read_text()


def test_a_server_that_is_not_its_own_is_refused(bed: Bed, daemons: Daemons, postgres: Cluster):
    """server_tls_sslmode=verify-full looks at the name too; with require it would log in."""
    gateway = AUTHORITY.issue_client("app_gateway")
    by_address = ("host=localhost", "host=127.0.0.2")
    careful = bouncer(daemons, postgres, gateway, by_address)
    careless = bouncer(
        daemons, postgres, gateway, by_address, ("server_tls_sslmode = verify-full", "server_tls_sslmode = require")
    )
    postgres.instance.configure({"listen_addresses": "127.0.0.1,127.0.0.2"})
    postgres.instance.stop()
    postgres.instance.start()
    client = AUTHORITY.issue_client("client")
    with bed.good_around():
        assert refusal(bed.login(client, port=careful.port)) is not None
        assert refusal(bed.login(client, port=careless.port)) is None  # the mutation


def test_what_it_does_not_protect_is_a_finding(bed: Bed):
    # the gap itself: mallory's certificate, the client's password
    assert refusal(bed.login(AUTHORITY.issue_client("mallory"))) is None
    bound = bed.login(AUTHORITY.issue_client("client")).but(channel_binding="require")
    assert "channel binding" in (refusal(bound) or "")
    settings = pooler.read(bed.daemon.folder / "pgbouncer.ini")
    assert {one.name for one in pooler.check(settings)} == {"allow-another-name", "allow-revoked"}
    open_settings = {"client_tls_sslmode": "prefer", "auth_type": "md5", "client_tls_protocols": "all"}
    names = {one.name for one in pooler.check(open_settings)}
    assert names == {"allow-client-in-clear", "allow-any-server", "allow-weak-login", "allow-old-protocol"}


def test_by_hba_the_name_is_bound(bed: Bed, daemons: Daemons, postgres: Cluster):
    """The compensation: 'cert' lines compare the common name with the user."""
    by_cert = bouncer(
        daemons, postgres, AUTHORITY.issue_client("app_gateway"), ("auth_type = scram-sha-256", "auth_type = cert")
    )
    own = bed.login(AUTHORITY.issue_client("client"), port=by_cert.port).but(require_auth=None)
    other = bed.login(AUTHORITY.issue_client("mallory"), port=by_cert.port).but(require_auth=None)
    assert refusal(own) is None
    assert refusal(other) is not None
    assert refusal(own) is None


def test_five_rotations_under_load_lose_no_request_and_no_client(bed: Bed):
    client, over, failed, done = bed.login(AUTHORITY.issue_client("client")), threading.Event(), list[str](), [0]

    def connects() -> None:
        while not over.is_set():
            try:
                with psycopg.connect(client.text()) as session:
                    session.execute("SELECT 1")
                done[0] += 1
            except psycopg.Error as exc:
                failed.append(str(exc))

    console = bed.login(AUTHORITY.issue_client("console"), user="console")
    target = pooler.PgBouncerServer(console, bed.daemon.folder / "pgbouncer.ini", dbname="app")
    with connect(client) as long_lived:
        thread = threading.Thread(target=connects)
        thread.start()
        try:
            for _ in range(5):
                pair = AUTHORITY.issue_server(NAMES)
                rotated = rotate(target, Change(pair, AUTHORITY.certificate))
                assert (rotated.new, rotated.sessions_before >= 1) == (pair.fingerprint, True)
        finally:
            over.set()
            thread.join()
        assert long_lived.execute("SELECT 1").fetchone() == (1,)
    assert failed == []
    assert done[0] > 5


def test_the_commands_rotate_and_check_it(bed: Bed):
    console = bed.login(AUTHORITY.issue_client("console"), user="console")
    AUTHORITY.issue_server(NAMES).save(bed.folder, "next")
    ini = str(bed.daemon.folder / "pgbouncer.ini")

    def ran(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dbsec", "tls", *argv]
        environ = {**os.environ, "CONSOLE": console.text()}
        return subprocess.run(command, cwd=bed.folder, env=environ, capture_output=True, text=True, check=False)

    rotation = [
        "rotate",
        "--server",
        "pgbouncer",
        "--dsn",
        "env:CONSOLE",
        "--certificate",
        "next.crt",
        "--ca",
        "ca.crt",
    ]
    told = ran(*rotation, "--ini", ini, "--through", "app", "--apply")
    assert (told.returncode, "served after" in told.stdout) == (0, True), told.stderr
    assert ran(*rotation).returncode == 2
    checked = ran("check-pooler", ini)
    assert (checked.returncode, "warning TLS406 allow-revoked" in checked.stdout) == (0, True), checked.stderr


PLAIN = """
; what the site has written
[databases]
app = host=localhost port={pg} dbname=postgres user=app_gateway password={gateway}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = md5
; kept
auth_file = {folder}/users.txt
admin_users = console
server_login_retry = 1
"""


def test_a_pooler_in_clear_is_planned_applied_and_rolled_back(bed: Bed, daemons: Daemons, postgres: Cluster):
    given = {"users.txt": f'"client" "{CLIENT}"\n"console" "{CLIENT}"\n'}
    port_of = postgres.instance.port
    made = daemons.pgbouncer(
        lambda folder, port: PLAIN.format(folder=folder, port=port, pg=port_of, gateway=GATEWAY), given
    )
    folder, ini = bed.folder, made.folder / "pgbouncer.ini"
    AUTHORITY.issue_server(NAMES).save(folder, "pooler")
    AUTHORITY.issue_client("app_gateway").save(folder, "gateway")
    AUTHORITY.issue_client("mallory").save(folder, "mallory")
    logins = {
        "CONSOLE": bed.login(AUTHORITY.issue_client("console"), user="console", port=made.port),
        "CLIENT": bed.login(AUTHORITY.issue_client("client"), port=made.port),
    }
    loose = {
        name: dsn.but(sslmode="prefer", require_auth=None, sslrootcert=None).text() for name, dsn in logins.items()
    }

    def ran(*more: str, gateway: str = "gateway.crt") -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "dbsec", "tls", "apply-pooler", str(ini), "--console", "env:CONSOLE"]
        argv += ["--through", "env:CLIENT", "--certificate", "pooler.crt", "--ca", "ca.crt", "--server-ca", "ca.crt"]
        argv += ["--client-ca", "ca.crt", "--gateway", gateway, *more]
        told = subprocess.run(
            argv, cwd=folder, env={**os.environ, **loose}, capture_output=True, text=True, check=False
        )
        assert GATEWAY not in told.stdout + told.stderr
        assert "PRIVATE" not in told.stdout + told.stderr
        return told

    before = ini.read_text()
    assert {one.name for one in pooler.check(pooler.read(ini))} >= {"allow-client-in-clear", "allow-any-server"}
    planned = ran()
    assert (planned.returncode, "add --apply" in planned.stdout, ini.read_text()) == (0, True, before), planned.stderr
    # PostgreSQL refuses mallory: no login comes through, and all is as before
    undone = ran("--apply", gateway="mallory.crt")
    assert (undone.returncode, "rolled back" in undone.stderr) == (3, True), undone.stdout + undone.stderr
    assert ini.read_text() == before
    assert sorted(path.name for path in made.folder.glob("dbsec-*")) == []
    done = ran("--apply")
    assert (done.returncode, "applied, and proven" in done.stdout) == (0, True), done.stderr
    assert "; what the site has written" in ini.read_text()
    assert "; kept" in ini.read_text()
    assert {one.name for one in pooler.check(pooler.read(ini))} == {"allow-another-name", "allow-revoked"}
    assert ran().stdout == "nothing to change\n"
    assert refusal(logins["CLIENT"]) is None


LOOKED_UP = """
[databases]
app = host=localhost port={pg} dbname=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = md5
auth_file = {folder}/users.txt
admin_users = console
server_login_retry = 1
"""


def test_passwords_are_looked_up_and_no_superusers(bed: Bed, daemons: Daemons, postgres: Cluster):
    lookup = password()
    with connect(postgres.admin.but(sslmode="require")) as admin:
        admin.execute(f"CREATE ROLE pooler_lookup LOGIN PASSWORD '{lookup}'")
        admin.execute(f"CREATE ROLE of_the_table LOGIN PASSWORD '{CLIENT}'")
        admin.execute(f"CREATE ROLE too_mighty SUPERUSER LOGIN PASSWORD '{CLIENT}'")
    postgres.instance.write(
        "pg_hba.conf", HBA + "hostssl all pooler_lookup,of_the_table,too_mighty all scram-sha-256\n"
    )
    postgres.instance.reload()
    given = {"users.txt": f'"console" "{CLIENT}"\n"pooler_lookup" "{lookup}"\n'}
    port_of = postgres.instance.port
    made = daemons.pgbouncer(lambda folder, port: LOOKED_UP.format(folder=folder, port=port, pg=port_of), given)
    AUTHORITY.issue_server(NAMES).save(bed.folder, "looking")
    bed.login(None)
    loose = {"sslmode": "prefer", "require_auth": None, "sslrootcert": None, "sslcertmode": None}
    console = bed.login(None, user="console", port=made.port).but(**loose)
    client = bed.login(None, user="of_the_table", port=made.port)
    environ = {"CONSOLE": console.text(), "CLIENT": client.but(**loose).text()}
    environ["ADMIN"] = postgres.admin.but(sslmode="require").text()
    argv = [sys.executable, "-m", "dbsec", "tls", "apply-pooler", str(made.folder / "pgbouncer.ini")]
    argv += ["--console", "env:CONSOLE", "--through", "env:CLIENT", "--certificate", "looking.crt", "--ca", "ca.crt"]
    argv += ["--server-ca", "ca.crt", "--auth-user", "pooler_lookup", "--admin", "env:ADMIN", "--apply"]
    told = subprocess.run(
        argv, cwd=bed.folder, env={**os.environ, **environ}, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert refusal(client) is None
    assert refusal(client.but(password=Secret("wrong"))) is not None
    assert refusal(client.but(user="too_mighty")) is not None
    straight = client.but(port=port_of, dbname="postgres")
    with connect(straight) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("SELECT * FROM dbsec_pooler.look_up('of_the_table')")
    assert refusal(straight.but(user="too_mighty")) is None  # PostgreSQL itself lets him in: the function does not
