"""PostgreSQL's protocol up to its first answer: the few messages that a probe and an impostor exchange.

Shape: numbers are big-endian. Before the login a packet is ``int32 length, body``; after it a message is
``byte type, int32 length, body``; each length counts itself. Source: PostgreSQL, "Message Formats".
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping

from dbsec.clock import SYSTEM

SSL_REQUEST = struct.pack(">II", 8, 80877103)
GSSENC_REQUEST = struct.pack(">II", 8, 80877104)
CLEARTEXT_PASSWORD_REQUEST = b"R" + struct.pack(">II", 8, 3)
_PROTOCOL_3_0 = struct.pack(">I", 3 << 16)
_LIMIT = 64 * 1024  # far above any message before a login; what is longer is not PostgreSQL


def startup(user: str, dbname: str) -> bytes:
    """Write the StartupMessage of a login."""
    pairs = ("user", user, "database", dbname, "application_name", "dbsec-probe")
    body = _PROTOCOL_3_0 + b"".join(text.encode() + b"\0" for text in pairs) + b"\0"
    return struct.pack(">I", len(body) + 4) + body


def exactly(sock: socket.socket, count: int) -> bytes:
    """Receive ``count`` bytes, all of them within the socket's timeout: a peer that drips must not hold us.

    Errors: ``ConnectionError`` where the peer closes before, ``TimeoutError``.
    """
    limit = sock.gettimeout()
    deadline = None if limit is None else SYSTEM.monotonic() + limit
    received = b""
    try:
        while len(received) < count:
            if deadline is not None:
                sock.settimeout(max(deadline - SYSTEM.monotonic(), 0.001))
            part = sock.recv(count - len(received))
            if not part:
                raise ConnectionError("the peer closed the connection")
            received += part
    finally:
        sock.settimeout(limit)
    return received


def packet(sock: socket.socket) -> bytes:
    """Receive a packet from before the login, its length included. Errors: ``ConnectionError``."""
    head = exactly(sock, 4)
    return head + exactly(sock, _body_length(head))


def message(sock: socket.socket) -> tuple[bytes, bytes]:
    """Receive a message: its type and body. Errors: ``ConnectionError``."""
    kind = exactly(sock, 1)
    return kind, exactly(sock, _body_length(exactly(sock, 4)))


def error_fields(body: bytes) -> Mapping[str, str]:
    """Read an ErrorResponse: one letter to its text. ``C`` is the SQLSTATE, ``M`` the message."""
    fields = (field.decode("utf-8", "replace") for field in body.split(b"\0") if field)
    return {field[0]: field[1:] for field in fields}


def ask_for_tls(address: str, port: int, *, timeout_s: float) -> tuple[socket.socket, bool]:
    """Connect and send SSLRequest; returns the socket, ready for the handshake, and whether TLS is offered.

    Errors: ``OSError``; ``ConnectionError`` for an answer that is neither yes nor no.
    """
    sock = socket.create_connection((address, port), timeout_s)
    try:
        sock.sendall(SSL_REQUEST)
        answer = exactly(sock, 1)
        if answer not in (b"S", b"N"):
            raise ConnectionError(f"the answer to SSLRequest is {answer!r}: this is not PostgreSQL")
    except BaseException:
        sock.close()
        raise
    return sock, answer == b"S"


def _body_length(head: bytes) -> int:
    length = int(struct.unpack(">I", head)[0])
    if not 4 <= length <= _LIMIT:
        raise ConnectionError(f"a length of {length} bytes: the peer does not speak PostgreSQL's protocol")
    return length - 4
