"""Phone numbers under one key, until dbsec.crypto brings envelopes, a KMS and keys for each tenant."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dbsec import canonical
from dbsec.errors import ConfigError, DbsecError
from dbsec.secret import Secret, resolve

_FORMAT = b"\x01"
_NONCE_BYTES = 12
_LEAST_KEY = 32
_COLUMN = b"app.users.phone"


class Undecryptable(DbsecError):
    """A value that this key did not encrypt for this tenant; the cause is not told."""


class PhoneCipher:
    """Encrypts for a tenant, and makes the blind index that a look-up compares.

    Shape of a value: 1 byte format, 12 bytes nonce, ciphertext, 16 bytes tag of AES-256-GCM; AAD: column and tenant.
    Of an index: HMAC-SHA-256 of column, tenant and phone, 32 bytes. Each has a key of its own, derived from one secret.
    """

    def __init__(self, secret: Secret) -> None:
        raw = secret.reveal().encode()
        if len(raw) < _LEAST_KEY:
            raise ConfigError(f"APP_PHONE_KEY has under {_LEAST_KEY} bytes", hint="openssl rand -hex 32")
        self._aead = AESGCM(hmac.digest(raw, b"dbsec app phone encryption v1", "sha256"))
        self._index_key = hmac.digest(raw, b"dbsec app phone index v1", "sha256")

    def encrypt(self, phone: str, tenant: UUID) -> bytes:
        """Encrypt under a new nonce: twice the same phone gives two values."""
        nonce = os.urandom(_NONCE_BYTES)
        return _FORMAT + nonce + self._aead.encrypt(nonce, phone.encode(), _bound_to(tenant))

    def decrypt(self, value: bytes, tenant: UUID) -> str:
        """Decrypt. Errors: ``Undecryptable``, whatever the cause."""
        nonce, sealed = value[1 : 1 + _NONCE_BYTES], value[1 + _NONCE_BYTES :]
        try:
            if value[:1] != _FORMAT:
                raise InvalidTag
            return self._aead.decrypt(nonce, sealed, _bound_to(tenant)).decode()
        except (InvalidTag, ValueError) as exc:
            raise Undecryptable("a phone number cannot be decrypted") from exc

    def index(self, phone: str, tenant: UUID) -> bytes:
        """Return what equal phones of one tenant share, and of two tenants do not."""
        return hmac.digest(self._index_key, canonical.length_prefixed([_bound_to(tenant), phone.encode()]), "sha256")


def _bound_to(tenant: UUID) -> bytes:
    return canonical.length_prefixed([_COLUMN, tenant.bytes])


def encrypt_batch(rows: Sequence[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """Fill ``phone_enc`` and ``phone_bidx`` from ``phone``: the batch function of the backfill."""
    cipher = PhoneCipher(resolve(os.environ["APP_PHONE_KEY"], environ=os.environ))
    for row in rows:
        new = {
            "phone_enc": cipher.encrypt(row["phone"], row["tenant_id"]),
            "phone_bidx": cipher.index(row["phone"], row["tenant_id"]),
        }
        yield {"id": row["id"], **new}


def agrees(rows: Sequence[Mapping[str, Any]]) -> Iterable[bool]:
    """Tell of each row whether its new columns hold its phone: the check of the backfill."""
    cipher = PhoneCipher(resolve(os.environ["APP_PHONE_KEY"], environ=os.environ))
    for row in rows:
        try:
            same = cipher.decrypt(row["phone_enc"] or b"", row["tenant_id"]) == row["phone"]
        except Undecryptable:
            same = False
        yield same and row["phone_bidx"] == cipher.index(row["phone"], row["tenant_id"])
