"""Write-only hosts: an X25519 key whose public half seals, and whose private half only a KMS gives back."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from dbsec.backup.errors import Tampered
from dbsec.backup.key_records import RECIPIENTS, X25519
from dbsec.errors import ConfigError

if TYPE_CHECKING:
    from dbsec.backup.keys import BackupKeys

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)  # RFC 9180, base mode
_LABEL: Final = b"dbsec/1/backup recipient\0"


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who can read what is sealed for it. ``public`` has 32 bytes."""

    public: bytes

    @classmethod
    def of_hex(cls, text: str) -> Recipient:
        """Read the 64 hex digits of a public key. Errors: ``ConfigError``."""
        try:
            public = bytes.fromhex(text.strip())
            X25519PublicKey.from_public_bytes(public)
        except ValueError as exc:
            raise ConfigError("a recipient is the 64 hex digits of an X25519 public key") from exc
        return cls(public)

    @property
    def holder(self) -> str:
        return f"{X25519}{hashlib.sha256(self.public).hexdigest()[:16]}"

    def encrypt(self, key: bytes, name: str) -> bytes:
        """Encrypt a key for the recipient, bound to the key's name (HPKE)."""
        return _SUITE.encrypt(key, X25519PublicKey.from_public_bytes(self.public), _LABEL + name.encode())


class Private:
    """The private half, while something is read."""

    def __init__(self, raw: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(raw)

    @property
    def public(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def decrypt(self, wrapped: bytes, name: str) -> bytes:
        """Open a key that was encrypted for this recipient under this name. Errors: ``Tampered``."""
        try:
            return _SUITE.decrypt(wrapped, self._key, _LABEL + name.encode())
        except (InvalidTag, ValueError):
            raise Tampered(name, "it is not wrapped for this recipient") from None


@dataclass(frozen=True, slots=True)
class Known:
    """A recipient of a repository: its public key in hex, when it was made, who holds the private one, its epochs."""

    public: str
    holder: str
    created: str
    keks: tuple[str, ...]
    epochs: int


def create_recipient(keys: BackupKeys) -> Recipient:
    """Make a recipient whose private key the KMS and the escrow of ``keys`` wrap."""
    private = X25519PrivateKey.generate()
    recipient = Recipient(private.public_key().public_bytes_raw())
    keys.create(record_name(recipient.holder), private.private_bytes_raw())
    return recipient


def recipients(keys: BackupKeys) -> list[Known]:
    """List the recipients, each opened by the KMS. Errors: those of ``BackupKeys.opened``."""
    records = [record for record in keys.records().values() if not isinstance(record, Exception)]
    epochs = Counter(wrap.holder for record in records for wrap in record.wraps if wrap.of_recipient)
    found = []
    for record in records:
        if not record.name.startswith(RECIPIENTS):
            continue
        public = Recipient(Private(keys.opened(record.name)).public)
        if record_name(public.holder) != record.name:
            raise Tampered(record.name, f"it is the recipient {public.holder}")
        keks = tuple(f"{wrap.holder} {wrap.kek} version {wrap.version}" for wrap in record.wraps)
        found.append(Known(public.public.hex(), public.holder, record.created, keks, epochs[public.holder]))
    return found


def open_private(keys: BackupKeys, holder: str) -> Private:
    """Open the private key of a holder by the KMS. Errors: those of ``BackupKeys.open``."""
    return Private(keys.opened(record_name(holder)))


def record_name(holder: str) -> str:
    """Return the name of the object with a recipient's private key."""
    return f"{RECIPIENTS}{holder.removeprefix(X25519)}.json"
