"""A server that takes what it is told to take: it answers ClientHellos by a ServerHello, and can do no cryptography.

It stands in for what this machine's OpenSSL no longer offers. Its reading of a ClientHello is its own.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

SSL_REQUEST = bytes.fromhex("0000000804d2162f")
HANDSHAKE_FAILURE = bytes.fromhex("15030100020228")


def _recv(sock: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = sock.recv(count - len(got))
        if not part:
            raise ConnectionError
        got += part
    return got


def read_hello(sock: socket.socket) -> tuple[int, list[int], bytes]:
    """Return version, suites and extensions of a ClientHello."""
    head = _recv(sock, 5)
    body = _recv(sock, int.from_bytes(head[3:5]))[4:]
    version, at = int.from_bytes(body[:2]), 34
    at += 1 + body[at]
    length = int.from_bytes(body[at : at + 2])
    suites = [int.from_bytes(body[n : n + 2]) for n in range(at + 2, at + 2 + length, 2)]
    at += 2 + length
    at += 1 + body[at]
    if b"\x00\x2b\x00\x03\x02\x03\x04" in body[at:]:
        version = 0x304
    return version, suites, body[at:]


def server_hello(version: int, suite: int, *, split: bool = False) -> bytes:
    """Write the record; with ``split`` its message is spread over records of seven bytes."""
    extensions = b"\x00\x2b\x00\x02\x03\x04\x00\x33\x00\x02\x00\x1d" if version == 0x304 else b""
    body = min(version, 0x303).to_bytes(2) + bytes(32) + b"\0" + suite.to_bytes(2) + b"\0"
    body += len(extensions).to_bytes(2) + extensions if extensions else b""
    message = b"\x02" + len(body).to_bytes(3) + body
    pieces = [message[n : n + 7] for n in range(0, len(message), 7)] if split else [message]
    return b"".join(b"\x16\x03\x03" + len(piece).to_bytes(2) + piece for piece in pieces)


@contextmanager
def scripted(offers: Mapping[int, Sequence[int]], *, answer: bytes | None = None, split: bool = False) -> Iterator[int]:
    """Serve ``version -> suites in order`` on a port of loopback; ``answer`` replaces every reply to a ClientHello."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(5)
            if _recv(sock, 8) != SSL_REQUEST:
                return  # a login in clear, or TLS at once: hang up
            sock.sendall(b"S")
            version, suites, _ = read_hello(sock)
            if answer is not None:
                sock.sendall(answer)
                return
            taken = next((one for one in offers.get(version, ()) if one in suites), None)
            sock.sendall(server_hello(version, taken, split=split) if taken is not None else HANDSHAKE_FAILURE)

    def accept() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                serve(listener.accept()[0])

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
