"""Attacks on encryption in transit: each succeeds on a truly bad server, and is refused for the right reason after."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from dbsec.clock import SYSTEM
from dbsec.errors import DbsecError
from dbsec.evidence import Control, Observation, Outcome
from dbsec.lab import ports
from dbsec.pg import Conninfo, connect
from dbsec.pg.hba import HbaLine, parse, render
from dbsec.retry import wait_until
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster
from dbsec.tls import drill, probe
from dbsec.tls.ca import Authority, KeyPair, self_signed
from dbsec.tls.context import Alert
from dbsec.tls.data_folder import DataFolder
from dbsec.tls.drill import TransitTarget
from dbsec.tls.impostor import Impostor
from dbsec.tls.posture import Posture, hba
from dbsec.tls.probe import Reason, Reply, Request, Served, Tls, TlsRefusal
from dbsec.tls.server_config import apply
from dbsec.tls.server_plan import plan
from dbsec.tls.stranger import STRANGERS, impersonate, refusal

LOOPBACK = "127.0.0.1"
NETWORKS = (f"{LOOPBACK}/32",)
PASSWORD = Secret("a password of the tests")
WEAK_HBA = (HbaLine("host", ("all", "replication"), ("all",), NETWORKS[0], "md5"),)
ROLES = (
    "SET password_encryption = 'md5'",
    "CREATE ROLE app_legacy SUPERUSER LOGIN PASSWORD {password}",
    "SET password_encryption = 'scram-sha-256'",
    "CREATE ROLE app_readwrite",
    "CREATE ROLE app_gateway LOGIN PASSWORD {password} IN ROLE app_readwrite",
    "CREATE ROLE app_migrator LOGIN PASSWORD {password}",
    "CREATE ROLE app_backup LOGIN REPLICATION PASSWORD {password}",
)

pytestmark = [pytest.mark.pg(15, 17, 18)]


@dataclass(frozen=True)
class Site:
    """One server, and how its clients reach it now."""

    cluster: Cluster
    authority: Authority
    target: TransitTarget
    ca: Path

    @property
    def port(self) -> int:
        return self.cluster.instance.port

    def login(self, user: str, **params: object) -> Conninfo:
        return Conninfo.local(self.port, user=user, dbname="postgres", password=PASSWORD, **params)

    def careful(self, user: str) -> Conninfo:
        return self.login(user, sslmode="verify-full", sslrootcert=self.ca, require_auth="scram-sha-256")

    def reply(self, user: str, tls: Tls | None) -> Reply:
        return probe.login_reply(LOOPBACK, self.port, user=user, dbname="postgres", tls=tls)


def weaken(cluster: Cluster, authority: Authority, folder: Path) -> Site:
    """Make the bad deployment: self-signed TLS beside plaintext, MD5, one superuser for everything."""
    pair = self_signed(["localhost"])
    cluster.instance.write("server.crt", pair.certificate)
    cluster.instance.write("server.key", pair.key)
    cluster.instance.write("pg_hba.conf", render(WEAK_HBA))
    cluster.instance.configure({"ssl": "on"})
    with connect(cluster.admin) as admin:
        for statement in ROLES:
            admin.execute(sql.SQL(statement).format(password=sql.Literal(PASSWORD.reveal())))
        admin.execute("SELECT pg_reload_conf()")
    (folder / "ca.crt").write_bytes(authority.certificate)
    legacy = Conninfo.local(
        cluster.instance.port, user="app_legacy", dbname="postgres", password=PASSWORD, sslmode="require"
    )
    target = TransitTarget(
        service=lambda: legacy, admin=lambda: cluster.admin, mtls=lambda: legacy, authority=authority
    )
    return Site(cluster, authority, target, folder / "ca.crt")


def harden(site: Site) -> Site:
    """Apply the posture, move the service, and take away the MD5 hash."""
    posture = Posture(
        site.authority.issue_server(["localhost", LOOPBACK]),
        server_ca=site.authority.certificate,
        client_ca=site.authority.certificate,
        hba=hba(
            scram=["app_readwrite"],
            mtls=["app_migrator", "app_backup"],
            replication=["app_backup"],
            admin="postgres",
            networks=NETWORKS,
        ),
    )
    folder = DataFolder(site.cluster.instance.data)
    with connect(site.cluster.admin) as admin:
        apply(site.cluster.admin, folder, plan(admin, folder, posture))
        admin.execute("ALTER ROLE app_legacy NOLOGIN PASSWORD NULL")
    careful = site.cluster.admin.but(sslmode="verify-full", sslrootcert=site.ca)
    target = TransitTarget(
        service=lambda: site.careful("app_gateway"),
        admin=lambda: careful,
        mtls=lambda: site.careful("app_migrator"),
        authority=site.authority,
    )
    return replace(site, target=target, cluster=replace(site.cluster, admin=careful))


@pytest.fixture(scope="module")
def weak(cluster_factory: Callable[..., Cluster], tmp_path_factory: pytest.TempPathFactory) -> Site:
    return weaken(cluster_factory(), Authority.create("the site's CA"), tmp_path_factory.mktemp("weak"))


@pytest.fixture(scope="module")
def hard(cluster_factory: Callable[..., Cluster], tmp_path_factory: pytest.TempPathFactory) -> Site:
    return harden(weaken(cluster_factory(), Authority.create("the site's CA"), tmp_path_factory.mktemp("hard")))


def observe(target: TransitTarget) -> dict[str, Observation]:
    """Run every drill as the recorder does: what is raised is an ERROR."""
    seen = {}
    for each in drill.drills(target):
        try:
            seen[each.name] = each.attack()
        except DbsecError as exc:
            seen[each.name] = Observation(Outcome.ERROR, exc.message)
    return seen


def control(target: TransitTarget, wanted: Control) -> list[Outcome]:
    """Run the drills of one control."""
    return [each.attack().outcome for each in drill.drills(target) if each.control == wanted]


@contextlib.contextmanager
def broken(site: Site, **files: bytes) -> Iterator[None]:
    """Break a guard of a hardened server, and mend it."""
    with connect(site.cluster.admin) as before_it:  # open already, so that no hba shuts it out of the way back
        kept = {name: (site.cluster.instance.data / name).read_bytes() for name in files}
        try:
            load(site, before_it, files)
            yield
        finally:
            load(site, before_it, kept)


def load(site: Site, admin: psycopg.Connection[Any], files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        site.cluster.instance.write(name, content)
    loaded = admin.execute("SELECT pg_conf_load_time()").fetchone()
    admin.execute("SELECT pg_reload_conf()")
    wait_until(lambda: admin.execute("SELECT pg_conf_load_time()").fetchone() != loaded, within_s=10, what="the reload")


def hba_of(site: Site, change: Callable[[HbaLine], HbaLine]) -> dict[str, bytes]:
    """Return the site's pg_hba.conf with every line changed, for ``broken``."""
    lines = parse((site.cluster.instance.data / "pg_hba.conf").read_text())
    return {"pg_hba.conf": render(map(change, lines)).encode()}


# The whole set, before and after


def test_every_drill_succeeds_on_the_bad_server(weak: Site) -> None:
    with connect(weak.login("app_legacy", sslmode="disable")):  # the forgotten job that talks in clear
        seen = observe(weak.target)
    assert {o.outcome for o in seen.values()} == {Outcome.FAIL}, seen


def test_every_drill_is_refused_by_the_hardened_server(hard: Site) -> None:
    with connect(hard.careful("app_gateway")):
        seen = observe(hard.target)
    assert {o.outcome for o in seen.values()} == {Outcome.PASS}, seen


def test_a_server_that_is_gone_proves_nothing(hard: Site) -> None:
    (nowhere,) = ports.free(1)
    gone = TransitTarget(
        service=lambda: hard.target.service().but(port=nowhere),
        admin=lambda: hard.target.admin().but(port=nowhere),
        mtls=lambda: hard.target.mtls().but(port=nowhere),
        authority=hard.authority,
    )
    assert {o.outcome for o in observe(gone).values()} == {Outcome.ERROR}


# Plaintext


def test_the_bad_server_begins_a_login_in_clear(weak: Site) -> None:
    assert weak.reply("app_legacy", None).request is Request.MD5
    assert refusal(weak.login("app_legacy", sslmode="disable")) is None


@pytest.mark.parametrize("user", ["app_gateway", "app_migrator", "postgres", "no_such_role"])
def test_no_login_begins_in_clear(hard: Site, user: str) -> None:
    reply = hard.reply(user, None)
    assert (reply.request, reply.sqlstate) == (None, "28000")
    assert reply.message.endswith("no encryption")
    assert refusal(hard.login(user, sslmode="disable")) is not None


def test_a_replica_is_not_fed_in_clear(hard: Site) -> None:
    said = refusal(hard.login("app_backup", sslmode="disable", replication="true"))
    assert said is not None
    assert "rejects replication connection" in said


def test_a_login_of_no_group_is_refused_over_tls_too(hard: Site) -> None:
    assert hard.reply("app_gateway", Tls("localhost")).request is Request.SASL
    assert hard.reply("app_stranger", Tls("localhost")).sqlstate == "28000"


# Strangers

REFUSED_BY = {  # what libpq tells the stranger; a wrong host name it finds after the handshake, and hangs up
    "another host name": None,
    "an unknown CA": Alert.UNKNOWN_CA,
    "an expired certificate": Alert.CERTIFICATE_EXPIRED,
    "a certificate of tomorrow": Alert.BAD_CERTIFICATE,
    "a self-signed certificate": Alert.UNKNOWN_CA,
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_careless_client_gives_a_stranger_its_password(weak: Site, name: str) -> None:
    met = impersonate(weak.target.service(), weak.authority, STRANGERS[name])
    assert (met.encounter.trusted, met.encounter.password) == (True, True)


@pytest.mark.parametrize("name", STRANGERS)
def test_a_careful_client_turns_away_from_a_stranger(hard: Site, name: str) -> None:
    met = impersonate(hard.target.service(), hard.authority, STRANGERS[name])
    assert (met.encounter.trusted, met.encounter.alert) == (False, REFUSED_BY[name])
    assert met.verify_code == STRANGERS[name].verify_code
    assert met.control is None, "with a good certificate the same client must log in"


def test_channel_binding_finds_a_stranger_with_a_good_certificate(hard: Site) -> None:
    upstream = (LOOPBACK, hard.port)
    with Impostor(hard.authority.issue_server(["localhost"]), upstream) as impostor:
        said = refusal(hard.careful("app_gateway").but(port=impostor.port))
        assert impostor.met().trusted
    assert said is not None
    assert "channel binding" in said


@pytest.mark.parametrize(
    ("make", "reason", "code"),
    [
        (lambda ca: ca.issue_server(["localhost"]), None, 0),
        (lambda ca: ca.issue_server(["localhost"], start=SYSTEM.now() + timedelta(days=2)), Reason.NOT_YET_VALID, 9),
        (lambda ca: ca.issue_server(["elsewhere.test"]), Reason.HOST_NAME, 62),
        (lambda ca: self_signed(["localhost"]), Reason.SELF_SIGNED, 18),
        (lambda ca: Authority.create("another").issue_server(["localhost"]), Reason.UNKNOWN_CA, 20),
        (lambda ca: ca.issue_client("localhost"), Reason.OTHER_CERTIFICATE_FAULT, 26),
    ],
)
def test_the_probe_names_the_fault_of_what_the_server_serves(
    hard: Site, make: Callable[[Authority], KeyPair], reason: Reason | None, code: int
) -> None:
    pair = make(hard.authority)
    with broken(hard, **{"server.crt": pair.certificate, "server.key": pair.key}):
        seen = probe.certificate(LOOPBACK, hard.port, server_name="localhost", ca=hard.authority.certificate)
        said = refusal(hard.careful("app_gateway"))
    if reason is None:
        assert isinstance(seen, Served)
        assert (seen.fingerprint, seen.protocol, said) == (pair.fingerprint, "TLSv1.3", None)
    else:
        assert isinstance(seen, TlsRefusal)
        assert (seen.reason, seen.verify_code) == (reason, code)
        assert said is not None


# MD5


def test_md5_is_asked_for_before_and_scram_after(weak: Site, hard: Site) -> None:
    assert weak.reply("app_legacy", Tls("localhost")).request is Request.MD5
    assert hard.reply("app_gateway", Tls("localhost")).request is Request.SASL


def test_an_md5_hash_does_not_log_in_any_more(hard: Site) -> None:
    with connect(hard.cluster.admin) as admin:
        admin.execute("SET password_encryption = 'md5'")
        admin.execute(sql.SQL("CREATE ROLE md5_user LOGIN IN ROLE app_readwrite PASSWORD {}").format(PASSWORD.reveal()))
    try:
        assert control(hard.target, drill.SCRAM) == [Outcome.FAIL]
        assert hard.reply("md5_user", Tls("localhost")).request is Request.SASL
        said = refusal(hard.careful("md5_user"))
        assert said is not None
        assert "password authentication failed" in said
    finally:
        with connect(hard.cluster.admin) as admin:
            admin.execute("DROP ROLE md5_user")


# Client certificates


def test_a_password_alone_is_enough_for_ddl_on_the_bad_server(weak: Site) -> None:
    assert refusal(weak.target.mtls()) is None


@pytest.mark.parametrize("user", ["app_migrator", "app_backup"])
def test_a_missing_client_certificate_is_refused(hard: Site, user: str) -> None:
    reply = hard.reply(user, Tls("localhost", hard.authority.certificate))
    assert (reply.sqlstate, reply.message) == ("28000", "connection requires a valid client certificate")


@pytest.mark.parametrize(
    ("make", "alert"),
    [
        (lambda ca: Authority.create("another").issue_client("app_migrator"), Alert.UNKNOWN_CA),
        (
            lambda ca: ca.issue_client("app_migrator", start=SYSTEM.now() - timedelta(days=8)),
            Alert.CERTIFICATE_EXPIRED,
        ),
        (lambda ca: ca.issue_server(["app_migrator"]), Alert.UNSUPPORTED_CERTIFICATE),
    ],
)
def test_a_bad_client_certificate_is_refused_in_the_handshake(
    hard: Site, make: Callable[[Authority], KeyPair], alert: Alert
) -> None:
    tls = Tls("localhost", hard.authority.certificate, make(hard.authority))
    assert hard.reply("app_migrator", tls).alert is alert


def test_the_certificate_of_another_role_is_refused(hard: Site, tmp_path: Path) -> None:
    mine, others = (login_with(hard, role, tmp_path) for role in ("app_migrator", "app_backup"))
    assert refusal(mine) is None
    assert refusal(others) is not None
    said = "provided user name (app_migrator) and authenticated user name (app_backup) do not match"
    assert said in hard.cluster.log.read_text()


def login_with(site: Site, role: str, folder: Path) -> Conninfo:
    certificate, key = site.authority.issue_client(role).save(folder, role)
    return site.careful("app_migrator").but(sslcert=certificate, sslkey=key)


# Each guard broken on purpose: its drill must see it


def test_mutation_a_group_admitted_in_clear(hard: Site) -> None:
    opened = hba_of(hard, lambda line: replace(line, type="host") if "+app_readwrite" in line.users else line)
    with broken(hard, **opened):
        assert control(hard.target, drill.PLAINTEXT) == [Outcome.FAIL]
        with connect(hard.login("app_gateway", sslmode="disable")):
            assert control(hard.target, drill.SESSIONS) == [Outcome.FAIL]
    assert control(hard.target, drill.PLAINTEXT) == [Outcome.PASS]


def test_mutation_everybody_refused_is_not_a_success(hard: Site) -> None:
    closed = hba_of(hard, lambda line: line if "postgres" in line.users else replace(line, method="reject", options=()))
    with broken(hard, **closed):
        for each in (drill.PLAINTEXT, drill.IMPERSONATION, drill.PASSWORD, drill.SCRAM, drill.CLIENT_CERTIFICATE):
            assert set(control(hard.target, each)) == {Outcome.ERROR}, each.id


def test_mutation_client_certificate_dropped(hard: Site) -> None:
    with broken(hard, **hba_of(hard, lambda line: replace(line, options=()))):
        assert control(hard.target, drill.CLIENT_CERTIFICATE) == [Outcome.FAIL]


def test_mutation_md5_method(hard: Site) -> None:
    with connect(hard.cluster.admin) as admin:
        admin.execute("SET password_encryption = 'md5'")
        admin.execute(sql.SQL("ALTER ROLE app_gateway PASSWORD {}").format(PASSWORD.reveal()))
        weakened = hba_of(hard, lambda line: replace(line, method="md5") if "+app_readwrite" in line.users else line)
        with broken(hard, **weakened):
            assert hard.reply("app_gateway", Tls("localhost")).request is Request.MD5
            assert control(hard.target, drill.SCRAM) == [Outcome.FAIL]
        admin.execute("SET password_encryption = 'scram-sha-256'")
        admin.execute(sql.SQL("ALTER ROLE app_gateway PASSWORD {}").format(PASSWORD.reveal()))
    assert control(hard.target, drill.SCRAM) == [Outcome.PASS]


@pytest.mark.parametrize(
    ("sslmode", "fooled_by"),
    [
        ("require", set(STRANGERS)),
        ("verify-ca", {"another host name"}),
        ("verify-full", set()),
    ],
)
def test_mutation_a_careless_service(hard: Site, sslmode: str, fooled_by: set[str]) -> None:
    service = hard.careful("app_gateway").but(sslmode=sslmode)
    if sslmode == "require":  # with a root certificate, libpq takes "require" for "verify-ca"
        service = service.but(sslrootcert="/nonexistent")
    careless = replace(hard.target, service=lambda: service)
    seen = zip(STRANGERS, control(careless, drill.IMPERSONATION), strict=True)
    assert {name for name, outcome in seen if outcome is Outcome.FAIL} == fooled_by


def test_mutation_a_service_that_answers_any_question(hard: Site) -> None:
    trusting = replace(hard.target, service=lambda: hard.careful("app_gateway").but(require_auth=None))
    assert control(trusting, drill.PASSWORD) == [Outcome.FAIL]


def test_mutation_another_certificate_is_served(hard: Site) -> None:
    pair = self_signed(["localhost"])
    with broken(hard, **{"server.crt": pair.certificate, "server.key": pair.key}):
        assert control(hard.target, drill.PASSWORD) == [Outcome.ERROR]
    assert control(hard.target, drill.PASSWORD) == [Outcome.PASS]
