"""How each protocol comes to TLS, and whether it lets a login begin without."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from enum import StrEnum

from dbsec.errors import ConnectError
from dbsec.tls import wire

ALPN = "postgresql"
# Source: MariaDB, "Connection Protocol"; MySQL, "Connection Phase".
_CLIENT_SSL, _PROTOCOL_41, _SECURE_CONNECTION, _PLUGIN_AUTH = 0x800, 0x200, 0x8000, 0x80000
_UTF8 = 33
_ER_SECURE_TRANSPORT_REQUIRED = 3159
_REFUSED_BY_HBA = "28000"
_TLS_IS_MISSING = ("no encryption", "ssl required", "tls required", "insecure transport")


class Protocol(StrEnum):
    """What ``--protocol`` takes. PgBouncer speaks ``postgres``."""

    AUTO = "auto"
    POSTGRES = "postgres"
    POSTGRES_DIRECT = "postgres-direct"
    MYSQL = "mysql"


class Plaintext(StrEnum):
    """What became of a login that asked for no TLS; it is ended before anything is proven."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Target:
    """Where to probe, as whom to begin a login in clear, and the name for SNI and ALPN."""

    host: str
    port: int
    protocol: Protocol = Protocol.POSTGRES
    user: str = "postgres"
    dbname: str = "postgres"
    timeout_s: float = 5.0


def greeted(target: Target) -> tuple[socket.socket, bool]:
    """Connect and ask for TLS; returns the socket, ready for a ClientHello, and whether TLS is offered.

    Errors: ``OSError``; ``ConnectionError`` where the peer speaks another protocol.
    """
    if target.protocol is Protocol.POSTGRES:
        return wire.ask_for_tls(target.host, target.port, timeout_s=target.timeout_s)
    sock = socket.create_connection((target.host, target.port), target.timeout_s)
    try:
        offered = True
        if target.protocol is Protocol.MYSQL:
            offered = bool(_capabilities(_packet(sock)) & _CLIENT_SSL)
            if offered:
                flags = _CLIENT_SSL | _PROTOCOL_41 | _SECURE_CONNECTION | _PLUGIN_AUTH
                _send(sock, 1, struct.pack("<IIB23x", flags, 1 << 24, _UTF8))
    except BaseException:
        sock.close()
        raise
    return sock, offered


def recognised(target: Target) -> Protocol:
    """Tell PostgreSQL from MySQL, which speaks first: the one answers SSLRequest by one byte, the other by a greeting.

    Errors: ``ConnectError`` where neither answers.
    """
    try:
        with socket.create_connection((target.host, target.port), target.timeout_s) as sock:
            sock.sendall(wire.SSL_REQUEST)
            said = sock.recv(4096)
    except OSError as exc:
        raise ConnectError(
            f"no answer from {target.host}:{target.port}: {exc}", hint="is it up, and the port right?"
        ) from exc
    if said in (b"S", b"N"):
        return Protocol.POSTGRES
    if len(said) > 5 and said[3] == 0 and said[4] in (10, 0xFF):
        return Protocol.MYSQL
    raise ConnectError(
        f"the server at {target.host}:{target.port} is neither PostgreSQL nor MySQL",
        hint="name it: --protocol postgres, postgres-direct or mysql",
    )


def in_clear(target: Target) -> tuple[Plaintext, str]:
    """Begin a login without TLS, and return what became of it, with the server's words.

    Errors: ``OSError``.
    """
    with socket.create_connection((target.host, target.port), target.timeout_s) as sock:
        return _mysql_in_clear(sock, target) if target.protocol is Protocol.MYSQL else _postgres_in_clear(sock, target)


def _postgres_in_clear(sock: socket.socket, target: Target) -> tuple[Plaintext, str]:
    sock.sendall(wire.startup(target.user, target.dbname))
    kind, body = wire.message(sock)
    if kind == b"R":
        return Plaintext.ACCEPTED, "the server goes on to authenticate"
    fields = wire.error_fields(body)
    said = f"{fields.get('C', '')} {fields.get('M', '')}".strip()
    if fields.get("C") == _REFUSED_BY_HBA or any(words in said.lower() for words in _TLS_IS_MISSING):
        return Plaintext.REFUSED, said
    return Plaintext.UNKNOWN, said


def _mysql_in_clear(sock: socket.socket, target: Target) -> tuple[Plaintext, str]:
    _packet(sock)
    flags = _PROTOCOL_41 | _SECURE_CONNECTION | _PLUGIN_AUTH
    login = struct.pack("<IIB23x", flags, 1 << 24, _UTF8) + target.user.encode() + b"\0\0mysql_native_password\0"
    _send(sock, 1, login)
    said = _packet(sock)
    if said[:1] != b"\xff":
        return Plaintext.ACCEPTED, "the server goes on to authenticate"
    number, text = struct.unpack("<H", said[1:3])[0], said[3:].decode("utf-8", "replace")
    words = f"{number} {text}"
    if number == _ER_SECURE_TRANSPORT_REQUIRED or any(mark in text.lower() for mark in _TLS_IS_MISSING):
        return Plaintext.REFUSED, words
    # an empty password is refused after it was looked at: the login in clear went all the way
    return Plaintext.UNKNOWN, words


def _packet(sock: socket.socket) -> bytes:
    head = wire.exactly(sock, 4)
    return wire.exactly(sock, int.from_bytes(head[:3], "little"))


def _send(sock: socket.socket, sequence: int, body: bytes) -> None:
    sock.sendall(len(body).to_bytes(3, "little") + bytes([sequence]) + body)


def _capabilities(greeting: bytes) -> int:
    """Read the lower flags, which stand after the version, the thread and the first part of the nonce.

    Errors: ``ConnectionError`` for what is no greeting, or an error in its place (a blocked host).
    """
    if greeting[:1] == b"\xff":
        raise ConnectionError(f"the server refuses: {greeting[3:].decode('utf-8', 'replace')}")
    end = greeting.find(b"\0", 1)
    if greeting[:1] != b"\x0a" or end < 0 or len(greeting) < end + 16:
        raise ConnectionError("the server's greeting is not MySQL's")
    return int(struct.unpack_from("<H", greeting, end + 14)[0])
