"""What a stranger gets from a client that is not careful, without any server behind it."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from dbsec.errors import GaveUp
from dbsec.pg import Conninfo
from dbsec.secret import Secret
from dbsec.tls import probe
from dbsec.tls.ca import Authority, KeyPair, self_signed
from dbsec.tls.context import Alert
from dbsec.tls.impostor import Encounter, Impostor
from dbsec.tls.probe import Reason, TlsRefusal
from dbsec.tls.stranger import refusal

AUTHORITY = Authority.create("the site's CA")
GOOD = AUTHORITY.issue_server(["localhost"])
BAD = self_signed(["localhost"])
STOPPED, GAVE_IT = Encounter(), Encounter(trusted=True, password=True)


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    return AUTHORITY.save(tmp_path)


@pytest.mark.parametrize(
    ("certificate", "settings", "expected"),
    [
        # 'N' to SSLRequest: whoever only prefers TLS goes on in clear
        (None, {"sslmode": "prefer"}, GAVE_IT),
        (None, {"sslmode": "disable"}, GAVE_IT),
        (None, {"sslmode": "prefer", "require_auth": "scram-sha-256"}, Encounter(trusted=True)),
        (None, {"sslmode": "require"}, STOPPED),
        (None, {"sslmode": "verify-full"}, STOPPED),
        # TLS by anybody: "require" checks nothing
        (BAD, {"sslmode": "require", "sslrootcert": "/nonexistent"}, GAVE_IT),
        (BAD, {"sslmode": "verify-full"}, Encounter(alert=Alert.UNKNOWN_CA)),
        # a stolen certificate: only require_auth is left
        (GOOD, {"sslmode": "verify-full"}, GAVE_IT),
        (GOOD, {"sslmode": "verify-full", "require_auth": "scram-sha-256"}, Encounter(trusted=True)),
        (GOOD, {"sslmode": "verify-full", "channel_binding": "require"}, Encounter(trusted=True)),
    ],
)
def test_what_a_client_gives_away(
    ca: Path, certificate: KeyPair | None, settings: dict[str, str], expected: Encounter
) -> None:
    with Impostor(certificate, None) as impostor:
        own = {"sslrootcert": str(ca), **settings}
        said = refusal(Conninfo.local(impostor.port, user="u", dbname="d", password=Secret("the password"), **own))
        assert impostor.met() == expected
    assert said is not None
    assert "the password" not in said


def test_a_downgrade_is_named_by_the_probe() -> None:
    with Impostor(None, None) as impostor:
        seen = probe.certificate("127.0.0.1", impostor.port, server_name="localhost", ca=AUTHORITY.certificate)
    assert isinstance(seen, TlsRefusal)
    assert (seen.reason, seen.verify_code) == (Reason.NO_TLS, 0)


def test_nothing_is_left_behind() -> None:
    before = set(threading.enumerate())
    with Impostor(GOOD, None) as impostor:
        idle = socket.create_connection(("127.0.0.1", impostor.port), 5)
        assert set(threading.enumerate()) > before
        idle.close()
    assert set(threading.enumerate()) == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", impostor.port), 5)


def test_nobody_came() -> None:
    with Impostor(GOOD, None) as impostor, pytest.raises(GaveUp):
        impostor.met(within_s=0.05)


@pytest.mark.parametrize("noise", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x00", b"\xff" * 64])
def test_a_client_that_speaks_something_else_is_no_encounter(noise: bytes) -> None:
    with Impostor(GOOD, None) as impostor:
        with socket.create_connection(("127.0.0.1", impostor.port), 5) as client:
            client.sendall(noise)
        assert impostor.met() == STOPPED
