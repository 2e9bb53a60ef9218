"""What a PostgreSQL server shows to someone without a password: its certificate, and its first answer to a login.

libpq has one text for four causes of a refusal; here each has its number (X.509 verify code, TLS alert, SQLSTATE).
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from dbsec.errors import ConnectError
from dbsec.tls import wire
from dbsec.tls.ca import KeyPair
from dbsec.tls.context import Alert, client_context

_TIMEOUT_S = 5.0


class Reason(StrEnum):
    """Why a careful client turns away from a server."""

    NOT_YET_VALID = "not yet valid"
    EXPIRED = "expired"
    SELF_SIGNED = "self-signed"
    UNKNOWN_CA = "unknown CA"
    HOST_NAME = "another host name"
    OTHER_CERTIFICATE_FAULT = "another fault of the certificate"
    NO_TLS = "no TLS offered"
    HANDSHAKE = "handshake failed"


# X509_V_ERR_*: 64 is the mismatch of an IP address. Source: OpenSSL, x509_vfy.h.
_REASONS = {
    9: Reason.NOT_YET_VALID,
    10: Reason.EXPIRED,
    18: Reason.SELF_SIGNED,
    19: Reason.UNKNOWN_CA,
    20: Reason.UNKNOWN_CA,
    21: Reason.UNKNOWN_CA,
    62: Reason.HOST_NAME,
    64: Reason.HOST_NAME,
}


@dataclass(frozen=True, slots=True)
class Served:
    """The certificate that a server proved to hold. ``fingerprint``: SHA-256 over DER, hex; protocol: ``TLSv1.3``."""

    fingerprint: str
    protocol: str
    cipher: str


@dataclass(frozen=True, slots=True)
class TlsRefusal:
    """Why the handshake was ended by this side. ``verify_code`` is OpenSSL's, 0 where no certificate was judged."""

    reason: Reason
    verify_code: int
    text: str


@dataclass(frozen=True, slots=True)
class Tls:
    """How to talk TLS: ``server_name`` is checked where ``ca`` (PEM) is given; ``client`` is shown where asked for."""

    server_name: str
    ca: bytes | None = None
    client: KeyPair | None = None


class Request(IntEnum):
    """What a server asks of a login. Source: PostgreSQL, "Message Formats", Authentication*."""

    NOTHING = 0
    CLEARTEXT = 3
    MD5 = 5
    GSS = 7
    SSPI = 9
    SASL = 10


@dataclass(frozen=True, slots=True)
class Reply:
    """The first answer to a login: a request, or a refusal by SQLSTATE, or a TLS alert; ``message`` is its text."""

    request: Request | None = None
    sqlstate: str = ""
    message: str = ""
    alert: Alert | None = None


def certificate(
    address: str, port: int, *, server_name: str, ca: bytes | None, timeout_s: float = _TIMEOUT_S
) -> Served | TlsRefusal:
    """Ask for TLS and judge the certificate against ``ca`` (PEM) and ``server_name``; None judges nothing.

    Errors: ``ConnectError`` where nothing, or no PostgreSQL, answers.
    """
    try:
        with _session(address, port, Tls(server_name, ca), timeout_s) as sock:
            if not isinstance(sock, ssl.SSLSocket):
                return TlsRefusal(Reason.NO_TLS, 0, "the server answers N to SSLRequest")
            der, cipher = sock.getpeercert(binary_form=True) or b"", sock.cipher()
            return Served(hashlib.sha256(der).hexdigest(), sock.version() or "", cipher[0] if cipher else "")
    except ssl.SSLCertVerificationError as exc:
        return TlsRefusal(verdict(exc), exc.verify_code, exc.verify_message)
    except ssl.SSLError as exc:
        return TlsRefusal(Reason.HANDSHAKE, 0, exc.reason or str(exc))
    except OSError as exc:
        raise _unreachable(address, port, exc) from exc


def verdict(error: ssl.SSLCertVerificationError) -> Reason:
    """Name the fault that OpenSSL found in a certificate."""
    return _REASONS.get(error.verify_code, Reason.OTHER_CERTIFICATE_FAULT)


def login_reply(
    address: str, port: int, *, user: str, dbname: str, tls: Tls | None, timeout_s: float = _TIMEOUT_S
) -> Reply:
    """Begin a login in clear (``tls`` None) or over TLS, and return what the server says first; nothing is proven.

    Errors: ``ConnectError`` where nothing answers, TLS is not offered, or the server's certificate is refused.
    """
    try:
        with _session(address, port, tls, timeout_s) as sock:
            if tls is not None and not isinstance(sock, ssl.SSLSocket):
                raise ConnectError(f"the server at {address}:{port} offers no TLS")
            # In TLS 1.3 a refused client certificate shows on the first read. The server may have reset the connection
            # by then, so that the write fails; the alert still waits to be read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                sock.sendall(wire.startup(user, dbname))
            return _reply(*wire.message(sock))
    except ssl.SSLError as exc:
        alert = Alert.of(exc)
        if alert is None:
            raise _unreachable(address, port, exc) from exc
        return Reply(alert=alert, message=exc.reason or "")
    except OSError as exc:
        raise _unreachable(address, port, exc) from exc


@contextmanager
def _session(address: str, port: int, tls: Tls | None, timeout_s: float) -> Iterator[socket.socket]:
    """Yield a TLS socket where TLS is wanted and offered, else a plain one; the type says which."""
    with ExitStack() as stack:
        if tls is None:
            yield stack.enter_context(socket.create_connection((address, port), timeout_s))
            return
        sock, offered = wire.ask_for_tls(address, port, timeout_s=timeout_s)
        stack.enter_context(sock)
        if offered:
            context = client_context(tls.ca, tls.client)
            sock = stack.enter_context(context.wrap_socket(sock, server_hostname=tls.server_name))
        yield sock


def _reply(kind: bytes, body: bytes) -> Reply:
    if kind == b"E":
        fields = wire.error_fields(body)
        return Reply(sqlstate=fields.get("C", ""), message=fields.get("M", ""))
    code = struct.unpack(">I", body[:4])[0] if kind == b"R" and len(body) >= 4 else -1
    if code not in list(Request):
        raise ConnectionError(f"the first message {kind!r} ({code}) is not one of a login")
    return Reply(request=Request(code))


def _unreachable(address: str, port: int, exc: OSError) -> ConnectError:
    return ConnectError(f"no answer to a probe of {address}:{port}: {exc}", hint="see the server's log")
