"""The probe against peers that are slow, wrong or rude: it ends in time, and says what happened."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from dbsec.errors import ConnectError
from dbsec.tls import probe, wire
from dbsec.tls.probe import Reason, Request, Tls, TlsRefusal

REFUSAL = b"SFATAL\0C28000\0Mno encryption\0\0"


@contextlib.contextmanager
def peer(*answers: bytes | None, pause_s: float = 0) -> Iterator[int]:
    """Answer each packet in turn, then hang up; None stays silent, ``pause_s`` lies before each byte."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(5)
    over = threading.Event()

    def serve() -> None:
        with listener, contextlib.suppress(OSError):
            client, _ = listener.accept()
            with client:
                for answer in answers:
                    wire.packet(client)
                    if answer is None:
                        over.wait(5)
                    else:
                        drip(client, answer, pause_s)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        over.set()
        thread.join()


def drip(client: socket.socket, answer: bytes, pause_s: float) -> None:
    for part in (answer[i : i + 1] for i in range(len(answer))) if pause_s else (answer,):
        time.sleep(pause_s)
        client.sendall(part)


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


def asked(port: int, tls: Tls | None = None) -> probe.Reply:
    return probe.login_reply("127.0.0.1", port, user="u", dbname="d", tls=tls, timeout_s=0.3)


@pytest.mark.parametrize("request_", list(Request))
def test_a_request_is_named(request_: Request) -> None:
    with peer(message(b"R", struct.pack(">I", request_) + b"SCRAM-SHA-256\0\0")) as port:
        assert asked(port) == probe.Reply(request=request_)


def test_a_refusal_brings_its_sqlstate() -> None:
    with peer(message(b"E", REFUSAL)) as port:
        assert asked(port) == probe.Reply(sqlstate="28000", message="no encryption")


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 400 Bad Request\r\n", message(b"Z", b"I"), message(b"R", b"\0\0\0\x63"), message(b"R", b"\0")],
)
def test_what_is_no_answer_to_a_login_is_an_error(answer: bytes) -> None:
    with peer(answer) as port, pytest.raises(ConnectError, match=f"probe of 127.0.0.1:{port}"):
        asked(port)


def test_a_silent_server_is_left_in_time() -> None:
    began = time.monotonic()
    with peer(None) as port, pytest.raises(ConnectError, match="timed out"):
        asked(port)
    with peer(None) as port, pytest.raises(ConnectError, match="timed out"):
        probe.certificate("127.0.0.1", port, server_name="localhost", ca=None, timeout_s=0.3)
    assert time.monotonic() - began < 2


def test_a_server_that_drips_is_left_in_time() -> None:
    began = time.monotonic()
    with peer(message(b"E", REFUSAL), pause_s=0.1) as port:
        with pytest.raises(ConnectError, match="timed out"):
            asked(port)
        assert time.monotonic() - began < 2


def test_nobody_there_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    with pytest.raises(ConnectError, match="refused"):
        asked(port)


def test_a_server_without_tls_is_told_from_a_bad_certificate() -> None:
    with peer(b"N") as port:
        seen = probe.certificate("127.0.0.1", port, server_name="localhost", ca=None, timeout_s=0.3)
    assert isinstance(seen, TlsRefusal)
    assert (seen.reason, seen.verify_code) == (Reason.NO_TLS, 0)
    with peer(b"N") as port, pytest.raises(ConnectError, match="offers no TLS"):
        asked(port, Tls("localhost"))


@pytest.mark.parametrize("answer", [b"E", b"H", b"\0"])
def test_another_protocol_is_named(answer: bytes) -> None:
    with peer(answer) as port, pytest.raises(ConnectError, match="this is not PostgreSQL"):
        probe.certificate("127.0.0.1", port, server_name="localhost", ca=None, timeout_s=0.3)


def test_a_handshake_that_is_none_is_a_refusal_and_not_a_certificate() -> None:
    with peer(b"S" + b"not a ServerHello, not at all") as port:
        seen = probe.certificate("127.0.0.1", port, server_name="localhost", ca=None, timeout_s=0.3)
    assert isinstance(seen, TlsRefusal)
    assert (seen.reason, seen.verify_code) == (Reason.HANDSHAKE, 0)
