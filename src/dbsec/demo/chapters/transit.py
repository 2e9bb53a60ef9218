"""Transit: nothing in clear, servers that prove who they are, client certificates where privileges are high."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from dbsec.demo.chapter import Chapter, Seen
from dbsec.demo.stage import Stage
from dbsec.evidence import Drill, Observation, Outcome
from dbsec.lab.cluster import SUPERUSER
from dbsec.pg import Conninfo
from dbsec.roles import set_password
from dbsec.tls import (
    DataFolder,
    KeyPair,
    Posture,
    TransitTarget,
    apply,
    drain_plaintext,
    hba,
    matrix,
    md5_roles,
    plan,
)
from dbsec.tls import drills as attacks
from dbsec.tls.drill import SESSIONS
from dbsec.tls.matrix import Bench, Server

DRAIN_S = 4.0
_OF_THE_MATRIX = (
    "md5-role",
    "client-wrong-ca",
    "client-expired",
    "client-not-yet-valid",
    "client-another-name",
    "client-revoked",
    "client-stale-crl",
)


def drills(stage: Stage) -> Sequence[Drill]:
    """Attack the wire: listen, pose as the server, come without a certificate."""
    target = TransitTarget(
        service=lambda: stage.login("service"),
        admin=lambda: stage.login("admin"),
        authority=stage.lab.site.authority,
        mtls=lambda: stage.login("migrator"),
    )
    wanted = [case for case in matrix.cases() if case.name in _OF_THE_MATRIX]
    return (*attacks(target), *matrix.drills(lambda: _bench(stage), wanted))


def _bench(stage: Stage) -> Bench:
    primary = stage.lab.primary
    return Bench(
        stage.login("service"),
        stage.lab.site.authority,
        stage.login("migrator"),
        stage.login("admin"),
        Server(DataFolder(primary.data), primary.log),
    )


def harden(stage: Stage) -> Iterator[Seen]:
    """Expand (TLS and plaintext), move every client to verify-full, contract (TLS only), drain what is left."""
    site = stage.lab.site
    pair = site.certificate()
    _apply(stage, pair, transitional=True)
    for who in ("admin", "migrator"):
        stage.logins[who] = _verified(stage, who)
    stage.reconnect_service(_verified(stage, "service"))
    _follow_by_certificate(stage)
    _apply(stage, pair, transitional=False)
    with stage.admin() as admin:
        for role in md5_roles(admin):
            set_password(admin, role, stage.password(role))
        drained = drain_plaintext(admin, deadline_s=DRAIN_S, progress=stage.progress)
    seen = Observation(
        Outcome.PASS,
        f"{drained.already_encrypted} sessions were encrypted when plaintext was closed, "
        f"{drained.left_by_themselves} left by themselves, {drained.terminated} were ended after {DRAIN_S:g} s",
        {**asdict(drained), "deadline_s": DRAIN_S},
    )
    yield SESSIONS, "drain of the sessions in clear", seen


def _verified(stage: Stage, who: str) -> Conninfo:
    """Check the server's name and CA, and give the password to no server that asks for it, whatever its certificate."""
    return stage.login(who).but(sslmode="verify-full", sslrootcert=stage.lab.site.ca_path, require_auth="scram-sha-256")


def _apply(stage: Stage, pair: KeyPair, *, transitional: bool) -> None:
    authority = stage.lab.site.authority.certificate
    crl = stage.lab.site.authority.crl([])
    wanted = Posture(pair, authority, authority, hba(admin=SUPERUSER, transitional=transitional), crl=crl)
    folder = DataFolder(stage.lab.primary.data)
    with stage.admin() as admin:
        planned = plan(admin, folder, wanted)
    apply(stage.login("admin"), folder, planned, progress=stage.progress)


def _follow_by_certificate(stage: Stage) -> None:
    """Let the standby stream over verify-full with a client certificate of its own role."""
    site, standby = stage.lab.site, stage.lab.standby
    role = stage.login("standby").user
    pair = site.authority.issue_client(role)
    certificate, key = standby.write("client.crt", pair.certificate), standby.write("client.key", pair.key)
    stage.logins["standby"] = _verified(stage, "standby").but(sslcert=certificate, sslkey=key)
    standby.follow(stage.login("standby"))


CHAPTER = Chapter(
    name="transit",
    order=30,
    title="Encryption in transit",
    summary=(
        "TLS only, by a certificate that clients check; SCRAM instead of md5; client certificates for the migrator "
        "and the standby. The service moves without a failed request."
    ),
    drills=drills,
    harden=harden,
)
