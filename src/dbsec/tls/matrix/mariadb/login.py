"""A login to MariaDB by PyMySQL, and why it was refused, as a machine says it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from contextlib import closing
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from dbsec.errors import ConfigError, ConnectError, ProgramMissing
from dbsec.secret import Secret
from dbsec.tls.ca import KeyPair
from dbsec.tls.context import Alert, client_context
from dbsec.tls.matrix.case import Reason
from dbsec.tls.prober import Protocol
from dbsec.tls.prober.greeting import Target, greeted
from dbsec.tls.wire import exactly

_TIMEOUT_S = 5
_CAPABILITIES = 0x200 | 0x800 | 0x8000 | 0x80000  # protocol 4.1, TLS, secure connection, plugins
_HINT = "mysql://user:password@host:3306/db?ssl_ca=FILE, by env:NAME or file:PATH"


class Trust(StrEnum):
    """What the client asks of the server."""

    VERIFY = "checks CA and name"
    ENCRYPT = "encrypts, and checks nothing"
    PREFER = "encrypts where it is offered"
    CLEAR = "in clear"


@dataclass(frozen=True, slots=True)
class Login:
    """Where, as whom, and how; ``pair`` is the client certificate that it shows."""

    host: str
    port: int
    user: str
    password: Secret
    trust: Trust = Trust.VERIFY
    ca: bytes | None = None
    dbname: str = ""
    pair: KeyPair | None = None

    @classmethod
    def parse(cls, url: Secret) -> Login:
        """Read SQLAlchemy's form of a URL: with ``ssl_ca`` CA and name are checked.

        Errors: ``ConfigError``, which does not repeat the URL.
        """
        try:
            parts = urlsplit(url.reveal())
            host, port, query = parts.hostname or "", parts.port or 3306, dict(parse_qsl(parts.query))
        except ValueError:
            raise ConfigError("the DSN is no URL of MariaDB", hint=_HINT) from None
        if not host or not parts.username or not parts.scheme.startswith(("mysql", "mariadb")):
            raise ConfigError("the DSN is no URL of MariaDB", hint=_HINT)
        try:
            ca = Path(query["ssl_ca"]).read_bytes() if "ssl_ca" in query else None
        except OSError as exc:
            raise ConfigError(f"cannot read ssl_ca '{query['ssl_ca']}': {exc.strerror}") from exc
        trust = Trust.VERIFY if ca else Trust.CLEAR if query.get("ssl_disabled") == "true" else Trust.PREFER
        password = Secret(unquote(parts.password or ""))
        return cls(host, port, unquote(parts.username), password, trust, ca, parts.path.lstrip("/"))

    def but(self, **changes: Any) -> Login:
        """Return a copy with other fields."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a login failed; ``reasons``: verify code of the client, or the server's error number."""

    text: str
    reasons: frozenset[Reason]


def connect(login: Login, *, address: str | None = None, port: int | None = None) -> Any:
    """Log in, routed elsewhere where an address is given; the certificate is checked against the login's own host."""
    try:
        import pymysql
    except ModuleNotFoundError as exc:
        raise ProgramMissing("PyMySQL is not installed", hint="pip install 'dbsec[mysql]'") from exc
    how: dict[str, Any] = {}
    if login.trust in (Trust.VERIFY, Trust.ENCRYPT):
        how["ssl"] = client_context(login.ca if login.trust is Trust.VERIFY else None, login.pair)
    elif login.trust is Trust.CLEAR:
        how["ssl_disabled"] = True
    connection = pymysql.connect(
        host=login.host,
        port=login.port,
        user=login.user,
        password=login.password.reveal(),
        database=login.dbname or None,
        connect_timeout=_TIMEOUT_S,
        read_timeout=_TIMEOUT_S,
        autocommit=True,
        defer_connect=True,
        **how,
    )
    connection.connect(socket.create_connection((address or login.host, port or login.port), _TIMEOUT_S))
    return connection


def refusal(login: Login, *, address: str | None = None, port: int | None = None) -> Refusal | None:
    """Try to log in; None where it succeeds. Errors: ``ConnectError`` where nothing listens."""
    import pymysql

    try:
        with closing(connect(login, address=address, port=port)):
            return None
    except pymysql.err.Error as exc:
        cause = getattr(exc, "original_exception", None)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Refusal(cause.verify_message, frozenset({Reason("verify code", str(cause.verify_code))}))
        number, text = (*exc.args, "", "")[:2]
        return Refusal(f"{number} {text}", frozenset({Reason("error", str(number))}))
    except OSError as exc:
        raise ConnectError(f"no answer from {login.host}:{login.port}: {exc}", hint="is it up?") from exc


def handshake(login: Login) -> Alert | None:
    """Show the certificate, begin a login, and return the alert by which the server ends it; None where it goes on.

    In TLS 1.3 the alert comes with the first read, and races with what is written before: it waits to be read.
    Errors: ``ConnectError``.
    """
    try:
        sock, offered = greeted(Target(login.host, login.port, Protocol.MYSQL))
        with sock:
            if not offered:
                raise ConnectError(f"the server at {login.host}:{login.port} offers no TLS")
            with client_context(login.ca, login.pair).wrap_socket(sock, server_hostname=login.host) as secure:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                    body = struct.pack("<IIB23x", _CAPABILITIES, 1 << 24, 33) + login.user.encode() + b"\0\0"
                    body += b"mysql_native_password\0"
                    secure.sendall(len(body).to_bytes(3, "little") + b"\2" + body)
                exactly(secure, 5)
                return None
    except ssl.SSLError as exc:
        alert = Alert.of(exc)
        if alert is None:
            raise ConnectError(f"the handshake with {login.host}:{login.port} failed: {exc.reason}") from exc
        return alert
    except OSError as exc:
        raise ConnectError(f"no answer from {login.host}:{login.port}: {exc}", hint="is it up?") from exc
