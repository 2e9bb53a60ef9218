"""A server that greets as MySQL does, and sees whether a client goes on to log in, whatever it is shown."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dbsec.tls.ca import KeyPair
from dbsec.tls.context import server_context

_CAPABILITIES = 0x0001 | 0x0008 | 0x0200 | 0x8000 | 0x80000
_SSL = 0x0800


def _greeting(tls: bool) -> bytes:
    flags = _CAPABILITIES | (_SSL if tls else 0)
    body = b"\x0a8.0.36\0" + struct.pack("<I", 1) + b"a" * 8 + b"\0" + struct.pack("<HBH", flags & 0xFFFF, 33, 2)
    body += struct.pack("<HB", flags >> 16, 21) + bytes(10) + b"b" * 12 + b"\0mysql_native_password\0"
    return len(body).to_bytes(3, "little") + b"\0" + body


@contextmanager
def mysql_stranger(certificate: KeyPair | None) -> Iterator[tuple[int, list[bool]]]:
    """Yield the port, and a list to which each client adds whether it went on to log in."""
    listener = socket.create_server(("127.0.0.1", 0))
    went_on: list[bool] = []

    def packet(sock: socket.socket) -> bytes:
        head = sock.recv(4, socket.MSG_WAITALL) if not isinstance(sock, ssl.SSLSocket) else sock.recv(4)
        body = b""
        while head and len(body) < int.from_bytes(head[:3], "little"):
            part = sock.recv(int.from_bytes(head[:3], "little") - len(body))
            if not part:
                return b""
            body += part
        return body

    def meet(sock: socket.socket) -> None:
        logged_in = False
        with contextlib.suppress(OSError):
            sock.settimeout(5)
            sock.sendall(_greeting(certificate is not None))
            answer = packet(sock)
            if certificate is not None and len(answer) == 32:
                with server_context(certificate).wrap_socket(sock, server_side=True) as secure:
                    logged_in = bool(packet(secure))
            else:
                logged_in = bool(answer)
        went_on.append(logged_in)
        sock.close()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                meet(listener.accept()[0])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], went_on
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
