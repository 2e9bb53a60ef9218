"""One column of one tenant under one DEK: the ciphers, and the loops in which a value's time is spent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dbsec.crypto.binding import (
    LEAST_INT8,
    MOST_INT8,
    ONE_INT8,
    Field,
    RowId,
    Unbinding,
    aad_prefix,
    aads,
    label,
    pack_int8,
    row_part,
)
from dbsec.crypto.dek import Dek
from dbsec.crypto.errors import DecryptionFailed
from dbsec.crypto.format import HEADER, NONCE_BYTES, Algorithm, header_of
from dbsec.crypto.invocations import Invocations

_NONCE_END = HEADER.size + NONCE_BYTES
_AEAD = b"dbsec/1/aead"
Row = RowId | Unbinding


class Column:
    """Encrypts and decrypts by reference, until ``expires`` on the keyring's clock; ``hot`` since it was last used."""

    __slots__ = (
        "_decrypt",
        "_encrypt",
        "_int8_prefix",
        "_invocations",
        "_prefix",
        "_ready",
        "expires",
        "field",
        "header",
        "hot",
        "key_id",
    )

    def __init__(
        self, dek: Dek, key_id: int, place: Field, tenant: str, invocations: Invocations, *, expires: float
    ) -> None:
        cipher = AESGCM(dek.subkey(label(_AEAD, tenant, place)))
        self.field = place
        self.key_id = key_id
        self.expires = expires
        self.hot = True
        self.header = header_of(Algorithm.AES_256_GCM, key_id)
        self._encrypt = cipher.encrypt
        self._decrypt = cipher.decrypt
        self._prefix = aad_prefix(tenant, place, self.header)
        self._int8_prefix = self._prefix + ONE_INT8
        self._invocations = invocations
        self._ready = invocations.ready.pop

    def encrypt(self, value: bytes, row: Row, version: int | None = None) -> bytes:
        """Encrypt one value. Errors: ``Unbound``; ``Refused`` at the limit of the key."""
        if type(row) is int and version is None and LEAST_INT8 <= row <= MOST_INT8:  # row_part, without the call
            aad = self._int8_prefix + pack_int8(row)
        else:
            aad = self._prefix + row_part(row, version)
        try:
            nonce = self._ready()
        except IndexError:
            nonce = self._invocations.refill()
        return self.header + nonce + self._encrypt(nonce, value, aad)

    def decrypt(self, blob: bytes, row: Row, version: int | None = None) -> bytes:
        """Decrypt one value that has our header. Errors: ``DecryptionFailed``."""
        if type(row) is int and version is None and LEAST_INT8 <= row <= MOST_INT8:  # row_part, without the call
            aad = self._int8_prefix + pack_int8(row)
        else:
            aad = self._prefix + row_part(row, version)
        try:
            return self._decrypt(blob[6:_NONCE_END], blob[_NONCE_END:], aad)
        except (InvalidTag, ValueError):
            raise DecryptionFailed(str(self.field), key_id=self.key_id) from None

    def encrypt_many(
        self, values: Sequence[bytes], rows: Iterable[Row], versions: Iterable[int | None] | None = None
    ) -> list[bytes]:
        """Encrypt a batch; there are as many rows as values. Errors: those of ``encrypt``, and then no value."""
        header, encrypt = self.header, self._encrypt
        bound = self._aads(rows, versions)
        drawn = self._invocations.take_many(len(values))
        return [
            header + nonce + encrypt(nonce, value, aad) for nonce, value, aad in zip(drawn, values, bound, strict=True)
        ]

    def decrypt_many(
        self, blobs: Sequence[bytes], rows: Iterable[Row], versions: Iterable[int | None] | None = None
    ) -> list[bytes]:
        """Decrypt a batch of values that have our header; there are as many rows. Errors: ``DecryptionFailed``."""
        decrypt = self._decrypt
        bound = self._aads(rows, versions)
        try:
            return [decrypt(blob[6:_NONCE_END], blob[_NONCE_END:], aad) for blob, aad in zip(blobs, bound, strict=True)]
        except (InvalidTag, ValueError):
            raise DecryptionFailed(str(self.field), key_id=self.key_id) from None

    def _aads(self, rows: Iterable[Row], versions: Iterable[int | None] | None) -> list[bytes]:
        if versions is None:
            return aads(self._prefix, rows)
        return [self._prefix + row_part(row, version) for row, version in zip(rows, versions, strict=True)]

    def __repr__(self) -> str:
        return f"<DEK {self.key_id} of {self.field}>"
