"""A sample run, recorded by the real Recorder: 12 controls, every exhibit, and everything that can go wrong."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dbsec.evidence import Control, Observation, Outcome, Phase, Provenance, Recorder

SECONDS = 140
HOSTILE = "<script>alert(1)</script>\"'`|\n# heading ![x](http://evil.example/p.png) {{ 7*7 }} &amp;"

ROLES = "roles"
TRANSIT = "transit"
BASELINE = "baseline"
SERVICE = "service"


class TestClock:
    """Begins on 23 November 2026 at 10:00 and moves only when told; each reading costs a millisecond."""

    __test__ = False

    def __init__(self) -> None:
        self._now = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)

    def now(self) -> datetime:
        self._now += timedelta(milliseconds=1)
        return self._now

    def monotonic(self) -> float:
        return self._now.timestamp()

    def sleep(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


def control(id_: str, title: str, risk: str, *refs: str) -> Control:
    return Control(id_, title, risk, refs)


NO_DROP = control(
    "roles.no-drop",
    "The service cannot drop or truncate tables",
    "A SQL injection in any endpoint destroys every tenant's data.",
    "OWASP API4:2023",
    "CIS PG 4.5",
    "NIST AC-6",
)
NO_SHELL = control(
    "roles.no-program",
    "The service cannot start programs on the server",
    "COPY FROM PROGRAM turns one stolen password into a shell on the database host.",
    "OWASP A05:2021",
    "CIS PG 4.2",
)
NO_HASHES = control(
    "roles.no-authid", "Password hashes stay unread", "Hashes are taken away and cracked offline.", "OWASP A02:2021"
)
DDL_LOGGED = control(
    "roles.ddl-logged",
    "Schema changes are logged with who and from where",
    "A destructive change cannot be traced to a person.",
    "OWASP A09:2021",
    "CIS PG 3.1.23",
    "NIST AU-3",
)
LIMITS = control(
    "roles.limits", "Each role has a connection limit", "One client takes every connection.", "OWASP API4:2023"
)
NO_PLAIN = control(
    "transit.no-plaintext",
    "Connections without TLS are refused",
    "Whoever sees the network reads every query and every password.",
    "OWASP A02:2021",
    "CIS PG 6.8",
    "NIST SC-8",
)
SERVER_KNOWN = control(
    "transit.server-verified",
    "Clients verify the server's certificate and name",
    "A machine in between poses as the database and reads all traffic.",
    "OWASP A02:2021",
    "NIST SC-23",
)
CLIENT_CERT = control(
    "transit.client-certificate", "The migrator needs a client certificate", "A leaked password is enough.", "NIST IA-2"
)
SCRAM = control("transit.scram", "Passwords are stored as SCRAM verifiers", "MD5 hashes are passwords.", "CIS PG 6.2")
DRAINED = control(
    "transit.drained", "No session stays in plaintext", "An old session goes on in clear for weeks.", "NIST SC-8"
)
SLO = control("slo.p99", "The service keeps its objective while it is hardened", "Users see errors.", "SLO p99 250 ms")
RLS = control(
    "tenancy.rls",
    "A tenant sees its own rows only",
    "One wrong WHERE shows another tenant's orders.",
    "OWASP API1:2023",
)


def latency(seconds: int = SECONDS, *, calm: bool = False, seed: int = 7) -> dict[str, Any]:
    """Make a believable run: quiet, two disturbances; unless calm, three failed requests when sessions are drained."""
    rng = random.Random(seed)
    peak = 7.0 if calm else 24.0
    shape: dict[str, list[Any]] = {k: [] for k in ("requests", "failed", "p50_ms", "p99_ms", "max_ms")}
    for second in range(seconds):
        near = sum(
            math.exp(-(((second - at) / 2.2) ** 2)) * size for at, size in ((41, 6.0), (96, peak), (99, peak / 3))
        )
        p50 = 3.1 * (1 + 0.15 * rng.random()) * (1 + near / 9)
        p99 = 12.5 * (1 + 0.5 * rng.random()) * (1 + near)
        gap = second == 97 and not calm
        failed = 0 if calm else {96: 2, 98: 1}.get(second, 0)
        shape["requests"].append(12 if gap else 198 + rng.randrange(6))
        shape["failed"].append(failed)
        shape["p50_ms"].append(None if gap else round(p50, 3))
        shape["p99_ms"].append(None if gap else round(p99, 3))
        shape["max_ms"].append(None if gap else round(p99 * (1.15 + 0.6 * rng.random()), 3))
    spans = [("baseline", "before", 25), ("roles", "before", 39), ("roles", "apply", 44), ("roles", "after", 66)]
    spans += [("transit", "before", 93), ("transit", "apply", 101), ("transit", "after", seconds)]
    starts = [0, *(end for _, _, end in spans)]
    bands = [{"label": n, "kind": k, "from_s": a, "to_s": b} for (n, k, b), a in zip(spans, starts, strict=False)]
    head = {"type": "latency", "title": "Latency of the service", "bucket_s": 1, "t0": "2026-11-23T10:00:00.000000Z"}
    return {**head, **shape, "bands": bands, "slo_p99_ms": 250}


def role_graph() -> dict[str, Any]:
    kinds = {
        "login": ("svc_gateway", "svc_migrator", "svc_backup", "svc_bi", "v-break-7f3a"),
        "group": (
            "app_gateway",
            "app_readwrite",
            "app_readonly",
            "app_migrator",
            "app_backup",
            "app_bi",
            "app_breakglass",
        ),
        "owner": ("app_owner", "dbsec_owner"),
        "superuser": ("postgres",),
        "object": ("users", "orders", "tenants", "dbsec.journal"),
    }
    edges = [
        ("svc_gateway", "app_gateway", "member", ""),
        ("app_gateway", "app_readwrite", "inherits", ""),
        ("svc_migrator", "app_migrator", "member", ""),
        ("app_migrator", "app_owner", "SET ROLE", "weak"),
        ("svc_backup", "app_backup", "member", ""),
        ("svc_bi", "app_bi", "member", ""),
        ("app_bi", "app_readonly", "inherits", ""),
        ("v-break-7f3a", "app_breakglass", "until 10:30", "weak"),
        ("app_breakglass", "app_readwrite", "inherits", ""),
        ("app_readwrite", "users", "SELECT, INSERT, UPDATE", ""),
        ("app_readwrite", "orders", "SELECT, INSERT, UPDATE", ""),
        ("app_readonly", "orders", "SELECT", ""),
        ("app_readonly", "tenants", "SELECT", ""),
        ("app_owner", "users", "owns", ""),
        ("app_owner", "orders", "owns", ""),
        ("app_owner", "tenants", "owns", ""),
        ("dbsec_owner", "dbsec.journal", "owns", ""),
        ("postgres", "app_owner", "may become", "danger"),
    ]
    return {
        "type": "graph",
        "title": "Who may do what",
        "nodes": [{"id": n, "label": n, "kind": kind} for kind, names in kinds.items() for n in names],
        "edges": [{"from": a, "to": b, "label": label, "kind": kind} for a, b, label, kind in edges],
    }


def timeline() -> dict[str, Any]:
    events = [
        (0.0, "server", "new certificate and hba written", "ok"),
        (0.4, "server", "reload", "ok"),
        (0.6, "service", "pool reconnects with verify-full", ""),
        (1.1, "service", "42 of 48 sessions encrypted", "ok"),
        (2.0, "attacker", "plaintext login refused (28000)", "ok"),
        (5.0, "service", "6 sessions still in plaintext", "warn"),
        (8.0, "server", "deadline: 6 sessions ended", "bad"),
        (8.2, "service", "3 requests retried by clients", "bad"),
        (8.9, "service", "48 of 48 sessions encrypted", "ok"),
    ]
    return {
        "type": "timeline",
        "title": "The change to TLS only",
        "lanes": ["server", "service", "attacker"],
        "events": [{"at_s": at, "lane": lane, "label": label, "kind": kind} for at, lane, label, kind in events],
    }


LOG = {
    "type": "text",
    "title": "The server's log",
    "text": "2026-11-23 10:00:52.118 UTC [4711] svc_migrator@shop 127.0.0.1(53122) migrate@1.4.0"
    " LOG:  statement: DROP TABLE legacy_orders\n"
    "2026-11-23 10:00:52.131 UTC [4711] svc_migrator@shop 127.0.0.1(53122) migrate@1.4.0 LOG:  duration: 12.804 ms",
}
GRANTS = {
    "type": "table",
    "title": "Rights of the service's role",
    "columns": ["object", "before", "after", "rows"],
    "rows": [
        ["users", "superuser", "SELECT, INSERT, UPDATE", 20000],
        ["orders", "superuser", "SELECT, INSERT, UPDATE", 50000],
        ["tenants", "superuser", "SELECT", 10],
        ["pg_authid", "superuser", "none", None],
    ],
}
UNKNOWN = {"type": "hologram", "title": "From a newer chapter", "depth": 3, "planes": [{"z": 1}, {"z": 2}]}


class Sample:
    """Writes a run line by line; ``text`` changes every sentence, so that hostile text reaches every place."""

    def __init__(self, recorder: Recorder, clock: TestClock, suffix: str) -> None:
        self.recorder, self.clock, self.suffix = recorder, clock, suffix

    def chapter(self, name: str, title: str, summary: str) -> None:
        self.recorder.chapter(name + self.suffix, title=title + self.suffix, summary=summary + self.suffix)

    def seen(
        self,
        about: Control,
        drill: str,
        phase: Phase,
        outcome: Outcome,
        summary: str,
        *exhibits: Mapping[str, Any],
        chapter: str,
        **facts: object,
    ) -> None:
        self.clock.sleep(1.7)
        s = self.suffix
        hostile = Control(about.id, about.title + s, about.risk + s, tuple(r + s for r in about.refs))
        shapes = [hostile_shape(e, s) if s else e for e in exhibits]
        facts = {k + s: f"{v}{s}" if isinstance(v, str) else v for k, v in facts.items()}
        what = Observation(outcome, summary + s, facts, shapes)
        self.recorder.record(hostile, drill + s, what, chapter=chapter + s, phase=phase, seconds=0.084)

    def pair(
        self, about: Control, drill: str, before: str, after: str, *exhibits: Mapping[str, Any], chapter: str
    ) -> None:
        self.seen(about, drill, Phase.BEFORE, Outcome.FAIL, before, chapter=chapter, role="postgres", superuser=True)
        facts = {"sqlstate": "42501", "role": "svc_gateway", "attempts": 3, "seen": {"message": "permission denied"}}
        self.seen(about, drill, Phase.AFTER, Outcome.PASS, after, *exhibits, chapter=chapter, **facts)


def hostile_shape(value: Any, suffix: str) -> Any:
    """Append hostile text to every string of an exhibit but its type and kinds, which choose how it is drawn."""
    if isinstance(value, str):
        return value + suffix
    if isinstance(value, list):
        return [hostile_shape(v, suffix) for v in value]
    if isinstance(value, Mapping):
        return {k: v if k in ("type", "kind") else hostile_shape(v, suffix) for k, v in value.items()}
    return value


def write(
    path: Path, key: Ed25519PrivateKey | None = None, *, clean: bool = False, suffix: str = "", sealed: bool = True
) -> Path:
    """Record the sample; ``clean`` leaves out what went wrong, ``suffix`` is appended to every text."""
    clock = TestClock()
    provenance = Provenance(
        "deploy" + suffix, "db-1.lab" + suffix, "0.1.0", "c71e3d9" + suffix, "9f86d081884c7d65" * 4, "SEC-1042" + suffix
    )
    with Recorder(path, provenance, clock=clock) as recorder:
        run = Sample(recorder, clock, suffix)
        _baseline(run)
        recorder.about(
            {
                "version": "17.10" + suffix,
                "database": "shop",
                "system_identifier": "7574003925512683521",
            }
        )
        _roles(run, clean=clean)
        _transit(run, clean=clean)
        _service(run, clean=clean)
        if sealed:
            recorder.seal(key or Ed25519PrivateKey.generate())
    return path


def _baseline(run: Sample) -> None:
    run.chapter(BASELINE, "Baseline", "The deployment as a hurried team left it: one superuser, no TLS to speak of.")
    facts = {"rows_of_others": 49812, "policies": 0}
    said = "tenant 1 read 49,812 rows of other tenants"
    run.seen(RLS, "read without a tenant", Phase.BASELINE, Outcome.FAIL, said, chapter=BASELINE, **facts)
    said = "The service logs in as a superuser"
    run.seen(NO_DROP, "look at the login", Phase.BASELINE, Outcome.FAIL, said, GRANTS, chapter=BASELINE)


def _roles(run: Sample, *, clean: bool) -> None:
    summary = (
        "The superuser login of the service is replaced by groups with the rights that each task needs, and no more."
    )
    run.chapter(ROLES, "Roles and rights", summary)
    before, after = "dropped orders with 50,000 rows", "refused: must be owner of table orders (42501)"
    run.pair(NO_DROP, "DROP TABLE as the service", before, after, chapter=ROLES)
    before, after = "emptied orders in 0.02 s", "refused: permission denied for table orders (42501)"
    run.pair(NO_DROP, "TRUNCATE as the service", before, after, role_graph(), chapter=ROLES)
    before, after = "ran id on the server: uid=999(postgres)", "refused: must be superuser or pg_execute_server_program"
    run.pair(NO_SHELL, "COPY FROM PROGRAM 'id'", before, after, chapter=ROLES)
    run.pair(NO_HASHES, "read pg_authid", "read 9 password hashes", "refused: permission denied (42501)", chapter=ROLES)
    before, after = "no line of the log names the DROP", "found it: svc_migrator from 127.0.0.1, migrate@1.4.0"
    run.pair(DDL_LOGGED, "drop a table and look for it in the log", before, after, LOG, UNKNOWN, chapter=ROLES)
    if not clean:
        said = "the server refused connection 101 of 200: max_connections was reached first"
        run.seen(LIMITS, "open 200 connections", Phase.BEFORE, Outcome.PASS, said, chapter=ROLES, opened=100)
        run.seen(
            LIMITS, "open 200 connections", Phase.AFTER, Outcome.PASS, "refused after 40", chapter=ROLES, opened=40
        )


def _transit(run: Sample, *, clean: bool) -> None:
    summary = "A certificate authority of its own, TLS 1.3 only, verify-full in every client, SCRAM for every password."
    run.chapter(TRANSIT, "Encryption in transit", summary)
    before, after = "logged in without TLS and read a password", "refused: no pg_hba.conf entry, no encryption (28000)"
    run.pair(NO_PLAIN, "connect without TLS", before, after, timeline(), chapter=TRANSIT)
    before, after = "connected to an impostor and sent it a query", "refused: certificate verify failed"
    for attack in ("impostor with a self-signed certificate", "impostor of another CA", "wrong host name"):
        run.pair(SERVER_KNOWN, attack, before, after, chapter=TRANSIT)
    before, after = "logged in with the password alone", "refused: connection requires a valid client certificate"
    run.pair(CLIENT_CERT, "log in without a certificate", before, after, chapter=TRANSIT)
    run.pair(SCRAM, "look for MD5 hashes", "4 of 9 roles have MD5 hashes", "all 9 are SCRAM-SHA-256", chapter=TRANSIT)
    if not clean:
        said = "48 of 48 sessions were in plaintext"
        run.seen(DRAINED, "count plaintext sessions", Phase.BEFORE, Outcome.FAIL, said, chapter=TRANSIT)
        said = "could not read pg_stat_ssl: the connection was closed"
        run.seen(
            DRAINED,
            "count plaintext sessions",
            Phase.AFTER,
            Outcome.ERROR,
            said,
            chapter=TRANSIT,
            hint="dbsec lab status",
        )


def _service(run: Sample, *, clean: bool) -> None:
    run.chapter(SERVICE, "The service meanwhile", "An open-loop load ran through all chapters.")
    for name, said in (("roles", "8,212 requests, 0 failed, p99 79 ms"), ("transit", "14,621 requests, 0 failed")):
        run.seen(SLO, f"load during {name}", Phase.DURING, Outcome.PASS, said, chapter=SERVICE)
    outcome = Outcome.PASS if clean else Outcome.FAIL
    said = "27,900 requests, 0 failed" if clean else "27,854 requests, 3 failed, and p99 rose to 371 ms"
    load = latency(calm=clean)
    facts = {"failed": sum(load["failed"]), "requests": sum(load["requests"])}
    run.seen(SLO, "load during the whole run", Phase.DURING, outcome, said, load, chapter=SERVICE, **facts)
