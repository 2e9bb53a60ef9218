"""The protocol before a login: what is read of a peer that may be hostile."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbsec.tls import wire
from dbsec.tls.context import Alert


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.settimeout(2)
    with near, far:
        yield near, far


def test_a_startup_message_is_a_packet_that_counts_itself(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    sent = wire.startup("app_gateway", "app")
    far.sendall(sent)
    assert wire.packet(near) == sent
    assert sent[4:8] == b"\0\3\0\0"
    assert sent[8:].startswith(b"user\0app_gateway\0database\0app\0")


def test_an_error_is_read_by_its_letters(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    body = b"SFATAL\0C28000\0Mno encryption\0\0"
    far.sendall(b"E" + struct.pack(">I", len(body) + 4) + body)
    kind, received = wire.message(near)
    assert kind == b"E"
    assert wire.error_fields(received) == {"S": "FATAL", "C": "28000", "M": "no encryption"}


@pytest.mark.parametrize("length", [0, 3, 64 * 1024 + 1, 0xFFFFFFFF])
def test_a_length_that_no_server_sends_is_refused(pair: tuple[socket.socket, socket.socket], length: int) -> None:
    near, far = pair
    far.sendall(b"E" + struct.pack(">I", length))
    with pytest.raises(ConnectionError, match="does not speak"):
        wire.message(near)


def test_a_peer_that_hangs_up_in_the_middle_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.sendall(b"E\0\0\0\x20half")
    far.close()
    with pytest.raises(ConnectionError, match="closed"):
        wire.message(near)


@given(st.binary(max_size=200))
def test_no_error_body_breaks_the_reader(body: bytes) -> None:
    assert all(len(letter) == 1 for letter in wire.error_fields(body))


@pytest.mark.parametrize(
    ("reason", "alert"),
    [
        ("TLSV1_ALERT_UNKNOWN_CA", Alert.UNKNOWN_CA),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", Alert.CERTIFICATE_EXPIRED),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", Alert.CERTIFICATE_REQUIRED),
        ("WRONG_VERSION_NUMBER", None),
        ("", None),
    ],
)
def test_an_alert_is_named_whatever_the_version(reason: str, alert: Alert | None) -> None:
    error = ssl.SSLError(1, "failed")
    error.reason = reason
    assert Alert.of(error) is alert
