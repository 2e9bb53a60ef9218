"""A man in the middle who greets as MariaDB does and asks for the password in clear."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from contextlib import ExitStack
from types import TracebackType

from dbsec.secret import Secret
from dbsec.tls.ca import KeyPair
from dbsec.tls.context import Alert, server_context
from dbsec.tls.impostor import Encounter
from dbsec.tls.wire import exactly

_TIMEOUT_S = 5.0
_CAPABILITIES = 0x0001 | 0x0008 | 0x0200 | 0x8000 | 0x80000
_TLS = 0x0800
_REQUEST_LENGTH = 32  # of a client's wish for TLS: a login is longer
_ASK = b"\xfemysql_clear_password\0"
_LIMIT = 64 * 1024


class Impostor:
    """Meets one client while the block runs, on ``port`` of 127.0.0.1; with no certificate it denies TLS.

    Source: MariaDB, "Connection Protocol" (initial handshake, AuthSwitchRequest).
    """

    def __init__(self, certificate: KeyPair | None) -> None:
        self._context = server_context(certificate) if certificate else None
        self._encounter = Encounter()

    def __enter__(self) -> Impostor:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_TIMEOUT_S)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._meet, name=f"impostor-{self.port}")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.met()
        self._listener.close()

    def met(self) -> Encounter:
        """Return what the client did, once it is over."""
        self._thread.join()
        return self._encounter

    def _meet(self) -> None:
        with contextlib.suppress(OSError), ExitStack() as stack:
            client, _ = self._listener.accept()
            client.settimeout(_TIMEOUT_S)
            sock = stack.enter_context(client)
            _send(sock, 0, _greeting(tls=self._context is not None))
            number, said = _packet(sock)
            if self._context is not None and len(said) == _REQUEST_LENGTH:
                try:
                    sock = stack.enter_context(self._context.wrap_socket(sock, server_side=True))
                    number, said = _packet(sock)
                except ssl.SSLError as exc:
                    self._encounter = Encounter(alert=Alert.of(exc))
                    return
            self._encounter = Encounter(trusted=True)
            _send(sock, number + 1, _ASK)
            given = _packet(sock)[1].rstrip(b"\0").decode("utf-8", "replace")
            self._encounter = Encounter(trusted=True, password=bool(given), captured=Secret(given) if given else None)


def _greeting(*, tls: bool) -> bytes:
    flags = _CAPABILITIES | (_TLS if tls else 0)
    body = b"\x0a5.5.5-10.11.0-MariaDB\0" + struct.pack("<I", 1) + b"a" * 8 + b"\0"
    body += struct.pack("<HBH", flags & 0xFFFF, 33, 2) + struct.pack("<HB", flags >> 16, 21)
    return body + bytes(10) + b"b" * 12 + b"\0mysql_native_password\0"


def _send(sock: socket.socket, number: int, body: bytes) -> None:
    sock.sendall(len(body).to_bytes(3, "little") + bytes([number & 0xFF]) + body)


def _packet(sock: socket.socket) -> tuple[int, bytes]:
    head = exactly(sock, 4)
    length = int.from_bytes(head[:3], "little")
    if length > _LIMIT:
        raise ConnectionError(f"a packet of {length} bytes before a login")
    return head[3], exactly(sock, length)
