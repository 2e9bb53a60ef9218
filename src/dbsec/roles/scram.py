"""SCRAM-SHA-256 verifiers made on the client, so that no server, log or replica ever sees the password."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import stringprep
import unicodedata

from dbsec.secret import Secret

# What PostgreSQL's own clients use; RFC 7677 asks for at least this many.
ITERATIONS = 4096
SALT_BYTES = 16

_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def verifier(password: Secret, *, iterations: int = ITERATIONS, salt: bytes | None = None) -> str:
    """Derive what ``ALTER ROLE … PASSWORD`` stores.

    Shape: ``SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>``, the last three in base64. Source: RFC 5802
    section 3, RFC 5803 section 2, RFC 7677; PostgreSQL, pg_authid.
    """
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", prepared(password.reveal()), salt, iterations)
    stored_key = hashlib.sha256(_mac(salted, b"Client Key")).digest()
    server_key = _mac(salted, b"Server Key")
    return f"SCRAM-SHA-256${iterations}:{_b64(salt)}${_b64(stored_key)}:{_b64(server_key)}"


def matches(password: Secret, stored: str) -> bool:
    """Tell whether a verifier is of this password; False for a verifier of another kind."""
    try:
        kind, work, _ = stored.split("$")
        iterations, salt = work.split(":")
        expected = verifier(password, iterations=int(iterations), salt=base64.b64decode(salt, validate=True))
    except ValueError:
        return False
    return kind == "SCRAM-SHA-256" and hmac.compare_digest(expected.encode(), stored.encode())


def prepared(password: str) -> bytes:
    """Normalise as SASLprep does; what SASLprep forbids is taken as it is, as PostgreSQL and libpq do.

    Source: RFC 4013 section 2; PostgreSQL, ``pg_saslprep``.
    """
    if password.isascii() and password.isprintable():
        return password.encode()
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c))
    text = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if not text or any(forbidden(c) for c in text for forbidden in _PROHIBITED) or not _one_direction(text):
        return password.encode()
    return text.encode()


def _one_direction(text: str) -> bool:
    """RFC 3454 section 6: right-to-left letters stand alone, first and last."""
    if not any(stringprep.in_table_d1(c) for c in text):
        return True
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(stringprep.in_table_d2(c) for c in text)


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
