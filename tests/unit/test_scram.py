"""SCRAM-SHA-256 verifiers against the RFCs' own numbers."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from dbsec.roles.scram import ITERATIONS, matches, prepared, verifier
from dbsec.secret import Secret

# RFC 7677, section 3: user "user", password "pencil"
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
CLIENT_FIRST = "n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
PROOF = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
SERVER_SIGNATURE = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def _keys(stored: str) -> tuple[bytes, bytes]:
    stored_key, server_key = stored.split("$")[2].split(":")
    return base64.b64decode(stored_key), base64.b64decode(server_key)


def test_the_rfc_exchange_succeeds_with_our_verifier() -> None:
    stored_key, server_key = _keys(verifier(Secret("pencil"), salt=SALT))
    said = f"{CLIENT_FIRST},{SERVER_FIRST},{CLIENT_FINAL}".encode()
    client_key = bytes(a ^ b for a, b in zip(PROOF, hmac.digest(stored_key, said, "sha256"), strict=True))
    assert hashlib.sha256(client_key).digest() == stored_key
    assert base64.b64encode(hmac.digest(server_key, said, "sha256")).decode() == SERVER_SIGNATURE


def test_the_shape_is_what_pg_authid_holds() -> None:
    text = verifier(Secret("pencil"), salt=SALT)
    assert text == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
        "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


def test_each_has_its_own_salt_and_the_least_iterations_of_the_rfc() -> None:
    first, second = verifier(Secret("pencil")), verifier(Secret("pencil"))
    assert first != second
    assert first.startswith(f"SCRAM-SHA-256${ITERATIONS}:")
    assert ITERATIONS >= 4096
    assert matches(Secret("pencil"), first)


# RFC 4013, section 3, and what PostgreSQL makes of what it forbids: the password as it was given
@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("\u0007", "\u0007"),
        ("\u0627\u0031", "\u0627\u0031"),
        ("a\u00a0b", "a b"),
        ("\u1680x", " x"),
        ("\u00ad", "\u00ad"),
        ("\u0221", "\u0221"),
        ("pässwörd", "pässwörd"),
        ("pa\u0308sswo\u0308rd", "pässwörd"),
        ("\u0627a\u0628", "\u0627a\u0628"),
        ("\u0627\u0628", "\u0627\u0628"),
    ],
)
def test_saslprep(given: str, taken: str) -> None:
    assert prepared(given) == taken.encode()


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "md5" + "0" * 32,
        "SCRAM-SHA-256$x:y$z",
        "SCRAM-SHA-256$4096:%%%$a:b",
        "a$1:YQ==$b$c",
        "SCRAM-SHA-256$0:YQ==$a:b",
    ],
)
def test_what_is_no_verifier_matches_nothing(stored: str) -> None:
    assert not matches(Secret("pencil"), stored)


def test_another_password_does_not_match() -> None:
    assert not matches(Secret("pencil "), verifier(Secret("pencil")))
