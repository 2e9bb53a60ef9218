"""Three views of one server side by side: configuration, wire and living sessions; and where they contradict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any, LiteralString

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dbsec.errors import UsageError
from dbsec.findings import Finding, Severity
from dbsec.pg import facts
from dbsec.pg.facts import Session
from dbsec.tls.check import Check
from dbsec.tls.data_folder import DataFolder
from dbsec.tls.prober import Probe, Protocol, probe
from dbsec.tls.prober.greeting import Target
from dbsec.tls.prober.suites import Version

_NAMES = (
    "ssl", "ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file", "ssl_min_protocol_version",
    "password_encryption", "data_directory",
)  # fmt: skip
_RULES: LiteralString = """
SELECT line_number, type, database, user_name, address, netmask, auth_method, error FROM pg_hba_file_rules
 ORDER BY line_number
"""
_NEAR = timedelta(days=14)
_CRL_NEAR = timedelta(hours=48)
_LABELS = {version.label: version for version in Version}


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of pg_hba.conf as the server reads it; ``networks`` is empty for names and keywords."""

    line: int
    type: str
    databases: tuple[str, ...]
    users: tuple[str, ...]
    address: str
    method: str
    error: str = ""

    @property
    def plain(self) -> bool:
        """Whether it can match a connection in clear over the network."""
        return self.type in ("host", "hostnossl", "hostnogssenc")

    def covers(self, other: Rule) -> bool:
        """Whether every connection in clear that the other matches meets this one first."""
        return (
            self.plain
            and _within(other.databases, self.databases)
            and _within(other.users, self.users)
            and _contains(self.address, other.address)
        )


@dataclass(frozen=True, slots=True)
class Configured:
    """What the server is told: its settings, its hba, and its files where they can be read."""

    settings: Mapping[str, str]
    rules: tuple[Rule, ...]
    disk_fingerprint: str | None = None
    disk_key_matches: bool | None = None
    not_after: datetime | None = None
    crl_next_update: datetime | None = None
    unread: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """All three views."""

    configured: Configured
    wire: Probe
    sessions: tuple[Session, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        c = self.configured
        return {
            "configuration": {
                "settings": dict(c.settings),
                "certificate": c.disk_fingerprint,
                "key_matches": c.disk_key_matches,
                "crl_next_update": c.crl_next_update,
                "hba_lines": len(c.rules),
                "unread": c.unread,
            },
            "wire": self.wire.to_json(),
            "sessions": [{"protection": name, "sessions": count} for name, count in self.protections().items()],
        }

    def protections(self) -> dict[str, int]:
        """Count the network sessions by protection: ``TLSv1.3``, ``in clear``."""
        return dict(Counter(s.tls_version or "in clear" for s in self.sessions if s.network))


def read(connection: psycopg.Connection[Any], folder: DataFolder | None, *, ca: bytes | None = None) -> Status:
    """Look at a server from all three sides; changes nothing.

    Needs a superuser or pg_monitor with EXECUTE on pg_hba_file_rules(), over the network. Errors: ``UsageError``,
    ``ConnectError``.
    """
    info = connection.info
    if info.host.startswith("/"):
        raise UsageError("the wire is looked at on the network: connect by host name, not by a Unix socket")
    target = Target(info.hostaddr or info.host, info.port, Protocol.POSTGRES, info.user, info.dbname)
    # the sessions first: the probe's own would be among them
    sessions = tuple(facts.sessions(connection))
    return Status(_configured(connection, folder), probe(target, ca=ca), sessions)


def _configured(connection: psycopg.Connection[Any], folder: DataFolder | None) -> Configured:
    found = {name: one.value for name, one in facts.settings(connection, list(_NAMES)).items()}
    rules = tuple(_rule(*row) for row in connection.execute(_RULES).fetchall())
    if folder is None:
        return Configured(found, rules, unread="the server's files: --data-dir")
    try:
        return _with_files(Configured(found, rules), folder)
    except (UsageError, ValueError) as exc:
        return Configured(found, rules, unread=str(exc))


def _with_files(known: Configured, folder: DataFolder) -> Configured:
    settings = known.settings
    held, key = folder.read(settings["ssl_cert_file"]), folder.read(settings["ssl_key_file"])
    listed = folder.read(settings["ssl_crl_file"]) if settings.get("ssl_crl_file") else None
    certificate = x509.load_pem_x509_certificate(held) if held else None
    return Configured(
        settings,
        known.rules,
        certificate.fingerprint(hashes.SHA256()).hex() if certificate else None,
        _matches(certificate, key) if certificate and key else None,
        certificate.not_valid_after_utc if certificate else None,
        x509.load_pem_x509_crl(listed).next_update_utc if listed else None,
    )


def _matches(certificate: x509.Certificate, key: bytes) -> bool:
    return load_pem_private_key(key, password=None).public_key() == certificate.public_key()


def _rule(
    line: int, kind: str, databases: list[str], users: list[str], address: str, mask: str, method: str, error: str
) -> Rule:
    if address and mask:
        address = str(ip_network(f"{address}/{_bits(mask)}", strict=False))
    return Rule(line, kind or "", tuple(databases or ()), tuple(users or ()), address or "", method or "", error or "")


def _bits(mask: str) -> int:
    """Count a mask's bits: pg_hba_file_rules writes 255.255.255.0, and ffff:: for IPv6."""
    return int(ip_address(mask)).bit_count()


def _within(inner: Sequence[str], outer: Sequence[str]) -> bool:
    if "all" in outer:
        return "replication" not in inner or "replication" in outer  # "all" does not cover replication
    return set(inner) <= set(outer)


def _contains(outer: str, inner: str) -> bool:
    if outer == "all" or outer == inner:
        return True
    try:
        one, other = ip_network(outer, strict=False), ip_network(inner, strict=False)
    except ValueError:
        return False  # a name or a keyword: nobody knows from here
    return one.version == other.version and other.subnet_of(one)  # type: ignore[arg-type]


def clear_paths(rules: Sequence[Rule]) -> Iterator[Rule]:
    """Yield the lines that let a login in clear begin: no refusal before them covers all that they match.

    Two refusals that only together cover a line are not put together: then the line is yielded all the same.
    """
    refusals: list[Rule] = []
    for rule in rules:
        if not rule.plain or rule.error:
            continue
        if rule.method == "reject":
            refusals.append(rule)
        elif not any(refusal.covers(rule) for refusal in refusals):
            yield rule


CHECKS = {
    check.name: check
    for check in (
        Check("TLS201", "allow-unserved-certificate", "The certificate on disk is not served", Severity.ERROR),
        Check("TLS202", "allow-mismatched-key", "The key on disk is not the certificate's", Severity.ERROR),
        Check("TLS203", "allow-path-in-clear", "A line of pg_hba.conf lets a login in clear begin", Severity.ERROR),
        Check("TLS204", "allow-session-in-clear", "A session is in clear", Severity.ERROR),
        Check("TLS205", "allow-old-session", "A session is below the version that is configured", Severity.ERROR),
        Check("TLS206", "allow-expiry", "A certificate has ended, or soon ends", Severity.ERROR),
        Check("TLS207", "allow-stale-crl", "The revocation list is past its time, or nearly", Severity.ERROR),
        Check("TLS208", "allow-unread-hba", "pg_hba.conf has errors: the lines before the change rule", Severity.ERROR),
        Check("TLS209", "allow-configured-only", "TLS is configured, and not offered", Severity.ERROR),
        Check("TLS210", "allow-version-on-wire", "The wire takes a version below the configured one", Severity.ERROR),
        Check("TLS211", "allow-unread-files", "The server's files could not be looked at", Severity.WARNING),
        Check("TLS212", "allow-no-crl", "Client certificates are asked for, and none can be revoked", Severity.WARNING),
    )
}


def judge(seen: Status, *, now: datetime) -> list[Finding]:
    """Name every contradiction between the views, and every date that nears."""
    host = f"{seen.wire.target.host}:{seen.wire.target.port}"
    views = (_certificate, _hba, _live, _dates, _wire)
    return [_finding(host, *one) for view in views for one in view(seen, now)]


_Told = tuple[str, str, str, str]  # name of the check, what of the server, message, fix


def _certificate(seen: Status, _: datetime) -> Iterator[_Told]:
    on_disk, served = seen.configured.disk_fingerprint, seen.wire.chain[0].fingerprint if seen.wire.chain else None
    if seen.configured.disk_key_matches is False:
        yield "allow-mismatched-key", "key", "every reload is ignored, and the next start fails", "dbsec tls rotate"
    if on_disk and served and on_disk != served:
        message = f"on disk is {on_disk[:16]}, served is {served[:16]}: it was not reloaded, or the reload was refused"
        yield (
            "allow-unserved-certificate",
            "certificate",
            message,
            "SELECT pg_reload_conf(), then read the server's log",
        )
    if seen.configured.unread:
        yield "allow-unread-files", "files", seen.configured.unread, "run this on the server, as its account"


def _hba(seen: Status, _: datetime) -> Iterator[_Told]:
    for rule in seen.configured.rules:
        if rule.error:
            yield "allow-unread-hba", f"pg_hba.conf:{rule.line}", rule.error, "dbsec tls apply"
    for rule in clear_paths(seen.configured.rules):
        who = f"{','.join(rule.users)} to {','.join(rule.databases)} from {rule.address}"
        message = f"{rule.type} ... {rule.method} lets {who} begin without TLS"
        yield "allow-path-in-clear", f"pg_hba.conf:{rule.line}", message, "dbsec tls plan"


def _live(seen: Status, _: datetime) -> Iterator[_Told]:
    least = _LABELS.get(seen.configured.settings.get("ssl_min_protocol_version", ""), Version.TLS_1_2)
    for (user, version), count in sorted(Counter((s.user, s.tls_version) for s in seen.sessions if s.network).items()):
        if not version:
            yield "allow-session-in-clear", user, f"{count} of '{user}' are in clear", "dbsec tls apply drains them"
        elif _LABELS.get(version, Version.TLS_1_3) < least:
            yield (
                "allow-old-session",
                user,
                f"{count} of '{user}' speak {version}, {least.label} is the least",
                "reconnect",
            )


def _dates(seen: Status, now: datetime) -> Iterator[_Told]:
    for one in seen.wire.chain:
        if one.not_after - now < _NEAR:
            days = (one.not_after - now).days
            yield (
                "allow-expiry",
                one.subject,
                f"'{one.subject}' ends {one.not_after:%F} ({days} days)",
                "dbsec tls ca renew",
            )
    until = seen.configured.crl_next_update
    if until is not None and until - now < _CRL_NEAR:
        message = f"nextUpdate is {until:%F %R} UTC; past it every client certificate is refused"
        yield "allow-stale-crl", "CRL", message, "dbsec tls ca crl, then dbsec tls rotate"
    if seen.configured.settings.get("ssl_ca_file") and not seen.configured.settings.get("ssl_crl_file"):
        yield (
            "allow-no-crl",
            "CRL",
            "ssl_ca_file is set and ssl_crl_file is not",
            "dbsec tls ca crl, then dbsec tls apply",
        )


def _wire(seen: Status, _: datetime) -> Iterator[_Told]:
    if seen.configured.settings.get("ssl") == "on" and not seen.wire.tls:
        yield "allow-configured-only", "ssl", "ssl is on, and SSLRequest is answered by N", "read the server's log"
    least = _LABELS.get(seen.configured.settings.get("ssl_min_protocol_version", ""), Version.SSL_3)
    for label in seen.wire.suites:
        if _LABELS[label] < least:
            message = f"{label} is taken, {least.label} is configured"
            yield "allow-version-on-wire", label, message, "SELECT pg_reload_conf(); does something else terminate TLS?"


def _finding(host: str, name: str, what: str, message: str, fix: str) -> Finding:
    check = CHECKS[name]
    return Finding(check.code, name, check.severity, f"{host} {what}", message, fix)
