"""The probe: which versions, suites and groups a server takes, one handshake an answer, and what else it shows."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ConnectError
from dbsec.progress import Progress, Silent
from dbsec.tls import wire
from dbsec.tls.context import client_context
from dbsec.tls.probe import verdict
from dbsec.tls.prober import certificates, greeting
from dbsec.tls.prober.certificates import Served
from dbsec.tls.prober.greeting import ALPN, Plaintext, Protocol, Target
from dbsec.tls.prober.hello import Answer, Offer, client_hello, first_flight
from dbsec.tls.prober.suites import GROUPS, Suite, Version, offered, suite

_SILENT: Progress = Silent()
_NO_APPLICATION_PROTOCOL, _INAPPROPRIATE_FALLBACK = 120, 86
_MOST_ANSWERS = 512  # a peer that takes whatever is offered would keep us for ever


@dataclass(frozen=True, slots=True)
class Trust:
    """How the certificate looks to a careful client: ``verify_code`` is OpenSSL's (0 is good), ``reason`` in words."""

    verify_code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Probe:
    """What was seen. Dictionaries are by version (``TLSv1.2``): ``refused`` says why, ``server_orders`` who chooses.

    ``groups``: of TLS 1.3, or of TLS 1.2 where there is no other. ``alpn``: another name than ``postgresql`` is
    refused. ``direct``: TLS without SSLRequest (PostgreSQL 17). ``trust`` is None where no CA was given.
    """

    target: Target
    tls: bool
    plaintext: Plaintext
    plaintext_words: str
    suites: dict[str, tuple[Suite, ...]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    server_orders: dict[str, bool] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    dh_bits: int | None = None
    direct: bool | None = None
    alpn: bool = False
    extended_master_secret: bool | None = None
    refuses_fallback: bool | None = None
    compresses: bool = False
    asks_certificate: bool | None = None
    chain: tuple[Served, ...] = ()
    trust: Trust | None = None
    handshakes: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Shape: the fields by name; a suite is ``{"code", "name", "faults"}``."""
        shown = {
            name: getattr(self, name) for name in self.__slots__ if name not in ("target", "suites", "chain", "trust")
        }
        return {
            "host": self.target.host,
            "port": self.target.port,
            "protocol": str(self.target.protocol),
            **shown,
            "suites": {version: [_shown(one) for one in found] for version, found in self.suites.items()},
            "chain": [one.to_json() for one in self.chain],
            "trust": asdict(self.trust) if self.trust else None,
        }


def probe(target: Target, *, ca: bytes | None = None, progress: Progress = _SILENT, clock: Clock = SYSTEM) -> Probe:
    """Find all that a server offers; with ``ca`` (PEM) also whether a careful client would trust it.

    No login is made and no key agreed: PostgreSQL logs a line a handshake, MySQL and MariaDB count each in
    Aborted_connects (and in max_connect_errors of this host). Errors: ``ConnectError``.
    """
    begun = clock.monotonic()
    if target.protocol is Protocol.AUTO:
        target = replace(target, protocol=greeting.recognised(target))
    try:
        seen = _Enumeration(target, progress).run()
        if seen.tls:
            seen = replace(seen, chain=seen.chain or _chain(target), trust=_trust(target, ca) if ca else None)
    except OSError as exc:
        hint = "try again; a server that hangs up on many handshakes shows why in its log"
        raise ConnectError(f"the probe of {target.host}:{target.port} broke off: {exc}", hint=hint) from exc
    return replace(seen, seconds=clock.monotonic() - begun)


class _Enumeration:
    """The handshakes with one server, counted."""

    def __init__(self, target: Target, progress: Progress) -> None:
        self.target, self.progress, self.handshakes = target, progress, 0

    def run(self) -> Probe:
        plaintext, words = self._in_clear()
        sock, tls = greeting.greeted(self.target)
        sock.close()
        seen = Probe(self.target, tls, plaintext, words)
        if not tls:
            return seen
        for version in Version:
            seen = self._version(seen, version)
            self.progress.step(f"{version.label}: {len(seen.suites.get(version.label, ()))} suites")
        if not seen.suites:
            return replace(seen, handshakes=self.handshakes)
        seen = self._below_1_3(self._groups(self._names(seen)))
        return replace(seen, handshakes=self.handshakes)

    def _in_clear(self) -> tuple[Plaintext, str]:
        if self.target.protocol is Protocol.POSTGRES_DIRECT:
            return Plaintext.UNKNOWN, "not asked for: postgres-direct begins with TLS"
        try:
            return greeting.in_clear(self.target)
        except ConnectionError as exc:
            return Plaintext.UNKNOWN, str(exc)

    def _offer(self, version: Version, suites: Sequence[int], *, whole: bool = False, **more: Any) -> Answer:
        more.setdefault("groups", tuple(GROUPS))
        if self.target.protocol is Protocol.POSTGRES_DIRECT:
            more.setdefault("alpn", (ALPN,))
        self.handshakes += 1
        sock, tls = greeting.greeted(self.target)
        with sock:
            if not tls:
                raise ConnectionError("TLS was offered, and is no more")
            sock.sendall(client_hello(Offer(version, suites, server_name=_name(self.target.host), **more)))
            return first_flight(partial(_exactly, sock), whole=whole)

    def _version(self, seen: Probe, version: Version) -> Probe:
        left = list(offered(version))
        taken: list[int] = []
        while left and len(taken) < _MOST_ANSWERS:
            answer = self._offer(version, left)
            if answer.suite is None or answer.version != version:
                break
            if answer.suite not in left:
                raise ConnectionError(f"the server takes suite 0x{answer.suite:04x}, which was not offered")
            left.remove(answer.suite)
            taken.append(answer.suite)
        if not taken:
            return replace(seen, refused=seen.refused | {version.label: _why(answer)})
        orders = dict(seen.server_orders)
        if len(taken) > 1:
            orders[version.label] = self._offer(version, taken[::-1]).suite == taken[0]
        found = tuple(map(suite, taken))
        return replace(seen, suites=seen.suites | {version.label: found}, server_orders=orders)

    def _names(self, seen: Probe) -> Probe:
        """Find whether ALPN is heeded, and TLS without a request before it. Source: PostgreSQL 17, "SSL Session
        Encryption"."""
        if self.target.protocol is Protocol.MYSQL:
            return seen
        newest, suites = _newest(seen)
        other = self._offer(newest, suites, alpn=("dbsec-probe",))
        alpn = other.alert == _NO_APPLICATION_PROTOCOL
        if self.target.protocol is Protocol.POSTGRES_DIRECT:
            return replace(seen, alpn=alpn, direct=True)
        straight = _Enumeration(replace(self.target, protocol=Protocol.POSTGRES_DIRECT), self.progress)
        self.handshakes += 1
        try:
            direct = straight._offer(newest, suites).suite is not None
        except ConnectionError:  # PgBouncer takes a ClientHello for a login that it cannot read, and says so
            direct = False
        return replace(seen, alpn=alpn, direct=direct)

    def _groups(self, seen: Probe) -> Probe:
        if Version.TLS_1_3.label in seen.suites:
            version = Version.TLS_1_3
        elif Version.TLS_1_2.label in seen.suites:
            version = Version.TLS_1_2
        else:
            return seen
        # a finite-field or static suite would be taken where no curve is left, and name no group
        suites = [s.code for s in seen.suites[version.label] if s.is_tls_1_3 or "_ECDHE_" in s.name]
        left, found = list(GROUPS), []
        while left and suites:
            group = self._offer(version, suites, groups=left, whole=version is Version.TLS_1_2).group
            if group not in left:
                break
            left.remove(group)
            found.append(GROUPS[group][0])
        return replace(seen, groups=tuple(found))

    def _below_1_3(self, seen: Probe) -> Probe:
        """Read what later versions encrypt: the chain, the size of DHE's prime, whether a certificate is asked for."""
        old = [v for v in (Version.TLS_1_2, Version.TLS_1_1, Version.TLS_1_0) if v.label in seen.suites]
        if not old:
            return seen
        newest, suites = old[0], [s.code for s in seen.suites[old[0].label]]
        has_newer = newest is not _newest(seen)[0]
        certified = [s.code for s in seen.suites[newest.label] if "_anon_" not in s.name]
        answer = self._offer(newest, certified or suites, whole=True)
        finite = [s.code for s in seen.suites[newest.label] if s.name.startswith(("TLS_DHE_", "TLS_DH_anon_"))]
        fallback = self._offer(newest, suites, fallback=True).alert if has_newer else None
        return replace(
            seen,
            chain=certificates.read(answer.certificates),
            asks_certificate=answer.asks_certificate,
            extended_master_secret=answer.extended_master_secret,
            dh_bits=self._offer(newest, finite, whole=True).dh_bits if finite else None,
            compresses=self._offer(newest, suites, compression=True).compressed,
            refuses_fallback=fallback == _INAPPROPRIATE_FALLBACK if has_newer else None,
        )


def _newest(seen: Probe) -> tuple[Version, list[int]]:
    newest = max(version for version in Version if version.label in seen.suites)
    return newest, [one.code for one in seen.suites[newest.label]]


def _chain(target: Target) -> tuple[Served, ...]:
    """Fetch the chain where it is encrypted (TLS 1.3 alone): Python's TLS shows the leaf, from 3.13 on all of it."""
    try:
        with _handshake(target, client_context(None)) as sock:
            whole = getattr(sock, "get_unverified_chain", None)
            leaf = sock.getpeercert(binary_form=True)
            return certificates.read(whole() if whole else [leaf] if leaf else [])
    except (ssl.SSLError, ConnectionError):  # this machine's TLS speaks nothing that the server takes
        return ()


def served(target: Target) -> str | None:
    """Fetch the fingerprint (SHA-256 over DER, hex) of the certificate that is served now; None without TLS.

    Errors: ``ConnectError``.
    """
    try:
        with _handshake(target, client_context(None)) as sock:
            return hashlib.sha256(sock.getpeercert(binary_form=True) or b"").hexdigest()
    except NoTls:
        return None
    except OSError as exc:
        raise ConnectError(f"no certificate from {target.host}:{target.port}: {exc}", hint="is it up?") from exc


class NoTls(ConnectionError):
    """The server answers that it offers no TLS."""


def _trust(target: Target, ca: bytes) -> Trust:
    try:
        _handshake(target, client_context(ca)).close()
    except ssl.SSLCertVerificationError as exc:
        return Trust(exc.verify_code, verdict(exc))
    except (ssl.SSLError, ConnectionError) as exc:
        return Trust(-1, f"no handshake: {exc}")
    return Trust(0, "trusted")


def _handshake(target: Target, context: ssl.SSLContext) -> ssl.SSLSocket:
    if target.protocol is Protocol.POSTGRES_DIRECT:
        context.set_alpn_protocols([ALPN])
    sock, offered = greeting.greeted(target)
    try:
        if not offered:
            raise NoTls(f"{target.host}:{target.port} offers no TLS")
        return context.wrap_socket(sock, server_hostname=target.host)
    except BaseException:
        sock.close()
        raise


def _exactly(sock: Any, count: int) -> bytes:
    try:
        return wire.exactly(sock, count)
    except TimeoutError:
        raise
    except ConnectionResetError:
        raise
    except ConnectionError as exc:  # it hung up: an answer too
        raise EOFError(str(exc)) from exc


def _name(host: str) -> str:
    """Return the name for SNI, which is never an address. Source: RFC 6066, section 3."""
    return "" if host.replace(".", "").isdigit() or ":" in host else host


def _why(answer: Answer) -> str:
    if answer.alert is not None:
        return f"alert {_ALERTS.get(answer.alert, answer.alert)}"
    if answer.closed:
        return "connection closed"
    return f"the server answers with version 0x{answer.version:04x}"


_ALERTS = {40: "handshake_failure", 70: "protocol_version", 71: "insufficient_security", 80: "internal_error"}


def _shown(one: Suite) -> dict[str, Any]:
    return {"code": f"0x{one.code:04x}", "name": one.name, "faults": sorted(one.faults)}
