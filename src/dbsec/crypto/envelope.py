"""Encrypt and decrypt what a column holds: bound to tenant, column and row, under the keyring's DEKs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from functools import partial

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dbsec.crypto import dek as deks
from dbsec.crypto import nonces
from dbsec.crypto.binding import Field, RowId, Unbinding, aad_prefix, label, row_part
from dbsec.crypto.column import Column
from dbsec.crypto.dek import Dek
from dbsec.crypto.errors import DecryptionFailed, Unbound
from dbsec.crypto.format import HEADER, KEY_BYTES, NONCE_BYTES, Algorithm, Parsed, header_of, inline_header, parse
from dbsec.crypto.invocations import Refused
from dbsec.crypto.keyring import Keyring, check
from dbsec.crypto.lookup import BlindIndex, normalised
from dbsec.crypto.value_cache import ValueCache
from dbsec.kms import KmsRefused

_AEAD = b"dbsec/1/aead"
_BY_REFERENCE = {header_of(kind, 0)[:2] for kind in (Algorithm.AES_256_GCM, Algorithm.AES_256_SIV)}
_LOG = logging.getLogger(__name__)
_NO_SALT = bytes(KEY_BYTES)  # an inline DEK encrypts one value: RFC 5869, 2.2
Row = RowId | Unbinding


class Envelope:
    """The front that a service holds: one for all tenants and columns. Safe for threads and after a fork.

    ``tenant`` is text, "" for a table of no tenant. ``row`` is the row's id (an int, UUID, str, bytes, or a tuple of
    them), ``UNBOUND`` where a value belongs to none. ``version`` binds the row's version too, where the caller keeps
    one: then an older value of the same row is refused.

    Errors of all: ``Unbound`` for a tenant or row that is missing; ``KmsUnavailable`` where a key is not cached and the
    KMS is away; ``KmsRefused`` and ``KeyMissing`` where nothing may be encrypted; ``KeyExhausted``.
    """

    def __init__(self, keyring: Keyring, *, value_cache: ValueCache | None = None) -> None:
        self.keyring = keyring
        self._values = value_cache
        if value_cache is not None:
            keyring.forgets(value_cache)

    def encrypt(self, value: bytes, field: Field, *, tenant: str, row: Row, version: int | None = None) -> bytes:
        """Encrypt one value by reference: 34 bytes longer than it was, and different each time."""
        keyring = self.keyring
        column = keyring.writers.get((tenant, field))
        if column is None or column.expires <= keyring.now():
            column = keyring.writer(tenant, field)
        column.hot = True
        try:
            return column.encrypt(value, row, version)
        except Refused:
            return self.keyring.refused(column, tenant).encrypt(value, row, version)

    def decrypt(self, blob: bytes, field: Field, *, tenant: str, row: Row, version: int | None = None) -> bytes:
        """Decrypt one value, by reference or inline. Errors: ``DecryptionFailed``, whatever is wrong with it."""
        keyring = self.keyring
        if type(blob) is not bytes:  # a driver's memoryview cannot always be looked up
            blob = bytes(blob)
        column = keyring.readers.get((tenant, field, blob[:6]))
        if column is None or column.expires <= keyring.now():
            parsed = _parsed(blob, field)
            if parsed.algorithm is not Algorithm.AES_256_GCM:
                return self._other(parsed, blob, field, tenant, row, version)
            column = keyring.reader(tenant, field, parsed.header)
        column.hot = True
        return column.decrypt(blob, row, version)

    def encrypt_many(
        self,
        values: Sequence[bytes],
        field: Field,
        *,
        tenant: str,
        rows: Iterable[Row],
        versions: Iterable[int | None] | None = None,
    ) -> list[bytes]:
        """Encrypt the values of many rows of one tenant, in half the time of single calls; all or none."""
        rows, versions = _paired(values, field, rows, versions)
        column = self._writer(tenant, field)
        try:
            return column.encrypt_many(values, rows, versions)
        except Refused:
            return self.keyring.refused(column, tenant).encrypt_many(values, rows, versions)

    def decrypt_many(
        self,
        blobs: Sequence[bytes],
        field: Field,
        *,
        tenant: str,
        rows: Iterable[Row],
        versions: Iterable[int | None] | None = None,
    ) -> list[bytes]:
        """Decrypt the values of many rows of one tenant; all or none. Errors: ``DecryptionFailed`` for the first."""
        rows, versions = _paired(blobs, field, rows, versions)
        headers = {blob[:6] if type(blob) is bytes else bytes(blob[:6]) for blob in blobs}
        if len(headers) == 1 and (column := self._warm_reader(tenant, field, next(iter(headers)))):
            column.hot = True
            return column.decrypt_many(blobs, rows, versions)
        self._prefetch(tenant, field, headers)
        numbers = versions if versions is not None else [None] * len(blobs)
        return [
            self.decrypt(blob, field, tenant=tenant, row=row, version=number)
            for blob, row, number in zip(blobs, rows, numbers, strict=True)
        ]

    def encrypt_inline(self, value: bytes, field: Field, *, tenant: str, row: Row, version: int | None = None) -> bytes:
        """Encrypt under a DEK of its own that travels with the value: one KMS call for it, and one for each reading."""
        check(tenant, field)
        dek = deks.fresh()
        try:
            wrapped = self.keyring.kms.wrap(dek, _inline_aad(tenant, field))
            derived = Dek(dek, _NO_SALT)
        finally:
            deks.erase(dek)
        header = inline_header(wrapped, derived.commitment())
        nonce = nonces.take()
        aad = aad_prefix(tenant, field, header) + row_part(row, version)
        return header + nonce + AESGCM(derived.subkey(label(_AEAD, tenant, field))).encrypt(nonce, value, aad)

    def encrypt_deterministic(self, value: bytes, field: Field, *, tenant: str, generation: int = 1) -> bytes:
        """Encrypt so that equal values of a tenant's column are equal, which everybody who reads the column sees.

        22 bytes longer than it was. No row is bound. Errors: ``ModeRefused`` in the FIPS profile.
        """
        self.keyring.allow_deterministic(field)
        return self.keyring.lookup(tenant, field, generation).encrypt(value)

    def blind_index(self, value: str | bytes, field: Field, how: BlindIndex, *, tenant: str) -> bytes | int:
        """Return what equal values share and nothing can be decrypted from; text is brought into its normal form."""
        return self.keyring.lookup(tenant, field, how.generation).index(normalised(value, how.normal), how)

    async def aencrypt(self, value: bytes, field: Field, *, tenant: str, row: Row, version: int | None = None) -> bytes:
        """Encrypt as ``encrypt`` does; where a key and its first lease must be fetched, that waits in a thread."""
        act = partial(self.encrypt, value, field, tenant=tenant, row=row, version=version)
        return act() if self._is_warm(tenant, field) else await asyncio.to_thread(act)

    async def adecrypt(self, blob: bytes, field: Field, *, tenant: str, row: Row, version: int | None = None) -> bytes:
        """Decrypt as ``decrypt`` does; where a key must be fetched, that waits in a thread."""
        act = partial(self.decrypt, blob, field, tenant=tenant, row=row, version=version)
        warm = self._warm_reader(tenant, field, bytes(blob[:6])) is not None
        if not warm and self._values is not None:
            warm = self._values.holds((tenant, field, row_part(row, version), bytes(blob)))
        return act() if warm else await asyncio.to_thread(act)

    async def aencrypt_many(
        self,
        values: Sequence[bytes],
        field: Field,
        *,
        tenant: str,
        rows: Iterable[Row],
        versions: Iterable[int | None] | None = None,
    ) -> list[bytes]:
        """Encrypt as ``encrypt_many`` does, in a thread."""
        return await asyncio.to_thread(self.encrypt_many, values, field, tenant=tenant, rows=rows, versions=versions)

    async def adecrypt_many(
        self,
        blobs: Sequence[bytes],
        field: Field,
        *,
        tenant: str,
        rows: Iterable[Row],
        versions: Iterable[int | None] | None = None,
    ) -> list[bytes]:
        """Decrypt as ``decrypt_many`` does, in a thread."""
        return await asyncio.to_thread(self.decrypt_many, blobs, field, tenant=tenant, rows=rows, versions=versions)

    def _writer(self, tenant: str, field: Field) -> Column:
        keyring = self.keyring
        column = keyring.writers.get((tenant, field))
        if column is None or column.expires <= keyring.now():
            return keyring.writer(tenant, field)
        column.hot = True
        return column

    def _is_warm(self, tenant: str, field: Field) -> bool:
        column = self.keyring.writers.get((tenant, field))
        return column is not None and column.expires > self.keyring.now()

    def _warm_reader(self, tenant: str, field: Field, header: bytes) -> Column | None:
        column = self.keyring.readers.get((tenant, field, header))
        return column if column is not None and column.expires > self.keyring.now() else None

    def _prefetch(self, tenant: str, field: Field, headers: Iterable[bytes]) -> None:
        by_reference = [header for header in headers if len(header) == HEADER.size and header[:2] in _BY_REFERENCE]
        if len(by_reference) > 1:
            self.keyring.prefetch(tenant, field, [HEADER.unpack(header)[2] for header in by_reference])

    def _other(self, parsed: Parsed, blob: bytes, field: Field, tenant: str, row: Row, version: int | None) -> bytes:
        if parsed.algorithm is Algorithm.AES_256_SIV:
            return self.keyring.lookup_reader(tenant, field, parsed.header).decrypt(blob)
        check(tenant, field)
        tail = row_part(row, version)
        act = partial(self._inline, parsed, field, tenant, tail)
        if self._values is None:
            return act()
        return self._values.of((tenant, field, tail, blob), len(blob), act)

    def _inline(self, parsed: Parsed, field: Field, tenant: str, tail: bytes) -> bytes:
        aad = aad_prefix(tenant, field, parsed.header) + tail
        try:
            dek = Dek(self.keyring.kms.unwrap(parsed.wrapped, _inline_aad(tenant, field)), _NO_SALT)
            if not dek.keeps(parsed.commitment):
                raise InvalidTag
            cipher = AESGCM(dek.subkey(label(_AEAD, tenant, field)))
            return cipher.decrypt(parsed.body[:NONCE_BYTES], parsed.body[NONCE_BYTES:], aad)
        except (InvalidTag, ValueError, KmsRefused) as exc:
            if isinstance(exc, KmsRefused):
                _LOG.info("the inline key of a value of '%s' cannot be used: %s", field, exc)
            raise DecryptionFailed(str(field)) from None


def _parsed(blob: bytes, field: Field) -> Parsed:
    try:
        return parse(bytes(blob))
    except ValueError:
        raise DecryptionFailed(str(field)) from None


def _paired(
    values: Sequence[bytes], field: Field, rows: Iterable[Row], versions: Iterable[int | None] | None
) -> tuple[list[Row], list[int | None] | None]:
    """Return both as lists. Errors: ``Unbound`` where they are not as many as the values."""
    told, numbers = list(rows), None if versions is None else list(versions)
    if len(told) != len(values) or (numbers is not None and len(numbers) != len(values)):
        raise Unbound(f"{len(values)} values of '{field}' came with another number of rows or versions")
    return told, numbers


def _inline_aad(tenant: str, field: Field) -> dict[str, str]:
    told = {"dbsec": "inline/1", "tenant": tenant, "context": field.context, "column": field.column}
    return {key: value for key, value in told.items() if value}
