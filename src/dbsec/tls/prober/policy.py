"""What a server may offer, as data, and the findings where it offers more."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

from dbsec.errors import ConfigError
from dbsec.findings import Finding, Severity
from dbsec.tls.check import Check
from dbsec.tls.prober.certificates import Served
from dbsec.tls.prober.enumeration import Probe
from dbsec.tls.prober.greeting import Plaintext, Protocol
from dbsec.tls.prober.suites import GROUPS, WHY, Fault, Version

POLICIES = ("modern", "intermediate")
_GROUP_BITS = dict(GROUPS.values())
_WEAK_HASHES = ("md5", "sha1", "unknown")


@dataclass(frozen=True, slots=True)
class Policy:
    """``versions`` are those that may be offered; ``forbid`` the faults that no suite may have; the rest are the least
    that is enough: bits of security of a group, bits of a certificate's key and of DHE's prime, days to its end.
    """

    versions: tuple[str, ...]
    forbid: frozenset[Fault]
    group_bits: int = 112
    rsa_bits: int = 2048
    ec_bits: int = 256
    dh_bits: int = 2048
    days_left: int = 14


CHECKS = {
    check.name: check
    for check in (
        Check("TLS101", "allow-plaintext", "A login may begin without TLS", Severity.ERROR, ("CWE-319",)),
        Check("TLS102", "allow-no-tls", "The server offers no TLS", Severity.ERROR, ("CWE-319",)),
        Check("TLS103", "allow-version", "A version below the policy", Severity.ERROR, ("RFC 8996",)),
        Check("TLS104", "allow-suite", "A cipher suite that the policy forbids", Severity.ERROR, ("CWE-327",)),
        Check("TLS105", "allow-weak-group", "A key exchange group below the policy", Severity.ERROR, ("CWE-326",)),
        Check("TLS106", "allow-short-prime", "A prime of DHE below the policy", Severity.ERROR, ("CVE-2015-4000",)),
        Check(
            "TLS107", "allow-dates", "A certificate outside its dates, or near their end", Severity.ERROR, ("CWE-298",)
        ),
        Check("TLS108", "allow-short-key", "A certificate's key below the policy", Severity.ERROR, ("CWE-326",)),
        Check(
            "TLS109", "allow-weak-signature", "A certificate signed over a broken hash", Severity.ERROR, ("CWE-328",)
        ),
        Check("TLS110", "allow-untrusted", "A careful client would turn away", Severity.ERROR, ("CWE-295",)),
        Check("TLS111", "allow-compression", "TLS compresses what it encrypts", Severity.ERROR, ("CVE-2012-4929",)),
        Check("TLS112", "allow-no-master-secret", "No extended master secret", Severity.WARNING, ("RFC 7627",)),
        Check("TLS113", "allow-none-of-policy", "None of the policy's versions is offered", Severity.ERROR),
        Check("TLS114", "allow-no-names", "A certificate without a name in its SAN", Severity.ERROR, ("RFC 9525",)),
        Check("TLS115", "allow-unknown-plaintext", "Whether a login may begin in clear was not seen", Severity.WARNING),
    )
}


def policy(name: str) -> Policy:
    """Read a policy: ``modern``, ``intermediate``, or the path of a TOML file with the same keys.

    Errors: ``ConfigError`` naming the key.
    """
    text = (
        files(__package__).joinpath("policies", f"{name}.toml").read_text("utf-8") if name in POLICIES else _own(name)
    )
    try:
        return _policy(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ConfigError) as exc:
        raise ConfigError(f"policy '{name}': {exc}", hint="see docs/encryption_in_transit.md") from exc


def _own(name: str) -> str:
    try:
        return Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        hint = f"use one of {', '.join(POLICIES)}, or the path of a TOML file"
        raise ConfigError(f"there is no policy '{name}'", hint=hint) from exc


def _policy(read: dict[str, Any]) -> Policy:
    known = {field.name for field in fields(Policy)}
    if unknown := sorted(read.keys() - known):
        raise ConfigError(f"'{unknown[0]}' is not a key; there are {', '.join(sorted(known))}")
    labels = [version.label for version in Version]
    versions, forbid = read.pop("versions", None), read.pop("forbid", None)
    if not isinstance(versions, list) or not versions or any(one not in labels for one in versions):
        raise ConfigError(f"'versions' is a list of {', '.join(labels)}, not {versions!r}")
    if not isinstance(forbid, list) or any(one not in list(Fault) for one in forbid):
        raise ConfigError(f"'forbid' is a list of {', '.join(Fault)}, not {forbid!r}")
    if wrong := [name for name, value in read.items() if type(value) is not int or value < 0]:
        raise ConfigError(f"'{wrong[0]}' is a number, not {read[wrong[0]]!r}")
    return Policy(tuple(versions), frozenset(map(Fault, forbid)), **read)


def judge(seen: Probe, wanted: Policy, *, now: datetime) -> list[Finding]:
    """Compare what was seen with a policy; an empty list is a pass."""
    if not seen.tls:
        return [_finding(seen, "allow-no-tls", "no TLS is offered", _TURN_ON)]
    judges: tuple[Callable[[Probe, Policy, datetime], Iterator[Finding]], ...] = (
        _plaintext, _versions, _suites, _exchange, _certificates, _session,
    )  # fmt: skip
    return [finding for one in judges for finding in one(seen, wanted, now)]


_TURN_ON = "dbsec tls plan"
_FIX_SUITES = {
    Protocol.MYSQL: "ssl_cipher in the server's option file, then restart",
    Protocol.POSTGRES: "ssl_ciphers (ssl_tls13_ciphers from PostgreSQL 18 on), then SELECT pg_reload_conf()",
}


def _plaintext(seen: Probe, _: Policy, __: datetime) -> Iterator[Finding]:
    who = f"a login as '{seen.target.user}'"
    if seen.plaintext is Plaintext.ACCEPTED:
        yield _finding(seen, "allow-plaintext", f"{who} begins in clear: {seen.plaintext_words}", _TURN_ON)
    elif seen.plaintext is Plaintext.UNKNOWN and seen.target.protocol is not Protocol.POSTGRES_DIRECT:
        message = f"{who} in clear was refused, but not for the want of TLS: {seen.plaintext_words}"
        yield _finding(seen, "allow-unknown-plaintext", message, "name a login that is let in: --user, --database")


def _versions(seen: Probe, wanted: Policy, _: datetime) -> Iterator[Finding]:
    fix = (
        "tls_version"
        if seen.target.protocol is Protocol.MYSQL
        else f"ssl_min_protocol_version = '{wanted.versions[0]}'"
    )
    for label in seen.suites.keys() - set(wanted.versions):
        yield _finding(seen, "allow-version", f"{label} is offered", fix, label)
    if not seen.suites.keys() & set(wanted.versions):
        yield _finding(seen, "allow-none-of-policy", f"none of {', '.join(wanted.versions)} is offered", fix)


def _suites(seen: Probe, wanted: Policy, _: datetime) -> Iterator[Finding]:
    """Yield one finding a fault, with its suites; a suite stands under the gravest of its own."""
    by_fault: dict[Fault, dict[str, list[str]]] = {}
    for label, found in seen.suites.items():
        for suite in found:
            if faults := suite.faults & wanted.forbid:
                gravest = min(faults, key=list(Fault).index)
                by_fault.setdefault(gravest, {}).setdefault(suite.name, []).append(label)
    fix = _FIX_SUITES.get(seen.target.protocol, _FIX_SUITES[Protocol.POSTGRES])
    for fault, suites in by_fault.items():
        named = ", ".join(f"{name} ({', '.join(labels)})" for name, labels in suites.items())
        yield _finding(seen, "allow-suite", f"{fault}: {WHY[fault]}: {named}", fix, fault)


def _exchange(seen: Probe, wanted: Policy, _: datetime) -> Iterator[Finding]:
    for group in seen.groups:
        if _GROUP_BITS[group] < wanted.group_bits:
            message = f"group {group} has {_GROUP_BITS[group]} bits of security, {wanted.group_bits} are needed"
            yield _finding(seen, "allow-weak-group", message, "ssl_groups, or ssl_ecdh_curve before 18", group)
    if seen.dh_bits is not None and seen.dh_bits < wanted.dh_bits:
        message = f"DHE with a prime of {seen.dh_bits} bits, {wanted.dh_bits} are needed"
        yield _finding(seen, "allow-short-prime", message, "ssl_dh_params_file, or no DHE suite in ssl_ciphers")


def _certificates(seen: Probe, wanted: Policy, now: datetime) -> Iterator[Finding]:
    for place, one in enumerate(seen.chain):
        yield from _certificate(seen, one, wanted, now)
        if place == 0 and not one.names:
            yield _finding(seen, "allow-no-names", f"'{one.subject}' has no SAN", _ISSUE, one.subject)
    if seen.trust is not None and seen.trust.verify_code:
        message = f"verify-full for '{seen.target.host}' fails: {seen.trust.reason} (code {seen.trust.verify_code})"
        yield _finding(seen, "allow-untrusted", message, _ISSUE)


_ISSUE = "dbsec tls ca issue server"


def _certificate(seen: Probe, one: Served, wanted: Policy, now: datetime) -> Iterator[Finding]:
    left = one.not_after - now
    if now < one.not_before:
        yield _finding(
            seen, "allow-dates", f"'{one.subject}' is not valid before {one.not_before:%F}", _ISSUE, one.subject
        )
    elif left < timedelta(days=wanted.days_left):
        ends = "has expired" if left < timedelta() else f"ends in {left.days} days"
        yield _finding(seen, "allow-dates", f"'{one.subject}' {ends} ({one.not_after:%F})", _ISSUE, one.subject)
    least = {"rsa": wanted.rsa_bits, "dsa": 1 << 16, "ec": wanted.ec_bits}.get(one.key_kind, 0)
    if one.key_bits < least:
        message = f"'{one.subject}' has an {one.key_kind.upper()} key of {one.key_bits} bits, {least} are needed"
        yield _finding(seen, "allow-short-key", message, _ISSUE, one.subject)
    if one.signed_with in _WEAK_HASHES and not one.self_signed:
        message = f"'{one.subject}' is signed over {one.signed_with.upper()}"
        yield _finding(seen, "allow-weak-signature", message, _ISSUE, one.subject)


def _session(seen: Probe, _: Policy, __: datetime) -> Iterator[Finding]:
    if seen.compresses:
        yield _finding(seen, "allow-compression", "records are compressed", "build OpenSSL without zlib")
    if seen.extended_master_secret is False:
        yield _finding(seen, "allow-no-master-secret", "sessions are not bound to their handshake", "update OpenSSL")


def _finding(seen: Probe, name: str, message: str, fix: str, what: str = "") -> Finding:
    check = CHECKS[name]
    severity = check.severity
    target = f"{seen.target.host}:{seen.target.port}" + (f" {what}" if what else "")
    return Finding(check.code, name, severity, target, message, fix, check.refs)
