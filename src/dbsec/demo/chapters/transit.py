"""Transit: nothing in clear, servers that prove who they are, client certificates where privileges are high."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from dbsec.demo.chapter import Chapter, Seen
from dbsec.demo.stage import Stage
from dbsec.evidence import Drill, Observation, Outcome
from dbsec.lab.cluster import SUPERUSER
from dbsec.pg import Conninfo
from dbsec.roles import accounts
from dbsec.tls import drill, posture, server_config, server_plan, sessions
from dbsec.tls.ca import KeyPair
from dbsec.tls.data_folder import DataFolder

DRAIN_S = 4.0
_BY_PASSWORD = ("app_readwrite", "app_readonly")
_BY_CERTIFICATE = ("app_migrator", "app_backup")


def drills(stage: Stage) -> Sequence[Drill]:
    """Attack the wire: listen, pose as the server, come without a certificate."""
    target = drill.TransitTarget(
        service=lambda: stage.login("service"),
        admin=lambda: stage.login("admin"),
        authority=stage.lab.site.authority,
        mtls=lambda: stage.login("migrator"),
    )
    return drill.drills(target)


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
        for role in sessions.md5_roles(admin):
            accounts.set_password(admin, role, stage.password(role))
        drained = sessions.drain_plaintext(admin, deadline_s=DRAIN_S, progress=stage.progress)
    seen = Observation(
        Outcome.PASS,
        f"{drained.already_encrypted} sessions were encrypted when plaintext was closed, "
        f"{drained.left_by_themselves} left by themselves, {drained.terminated} were ended after {DRAIN_S:g} s",
        {**asdict(drained), "deadline_s": DRAIN_S},
    )
    yield drill.SESSIONS, "drain of the sessions in clear", seen


def _verified(stage: Stage, who: str) -> Conninfo:
    """Check the server's name and CA, and give the password to no server that asks for it, whatever its certificate."""
    return stage.login(who).but(sslmode="verify-full", sslrootcert=stage.lab.site.ca_path, require_auth="scram-sha-256")


def _apply(stage: Stage, pair: KeyPair, *, transitional: bool) -> None:
    authority = stage.lab.site.authority.certificate
    lines = posture.hba(
        scram=_BY_PASSWORD,
        mtls=_BY_CERTIFICATE,
        replication=("app_backup",),
        admin=SUPERUSER,
        transitional=transitional,
    )
    wanted = posture.Posture(pair, authority, authority, lines)
    folder = DataFolder(stage.lab.primary.data)
    with stage.admin() as admin:
        planned = server_plan.plan(admin, folder, wanted)
    server_config.apply(stage.login("admin"), folder, planned, progress=stage.progress)


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
