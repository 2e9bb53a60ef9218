"""Values of many rows of any tenants at once: what the ORM and the wrapper of psycopg both do with a column."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from dbsec.crypto.columns import EncryptedColumn, Mode
from dbsec.crypto.envelope import Envelope, Row
from dbsec.crypto.errors import DecryptionFailed
from dbsec.crypto.format import VERSION, Algorithm, parse
from dbsec.crypto.lookup import BlindIndex, Normal, normalised
from dbsec.errors import UsageError

DETERMINISTIC = bytes([VERSION << 4 | Algorithm.AES_256_SIV])  # the second byte of a value
_TYPES: dict[str, type[str] | type[bytes]] = {"text": str, "bytes": bytes}
Value = str | bytes


def encrypt(
    envelope: Envelope,
    column: EncryptedColumn,
    values: Sequence[Value | None],
    tenants: Sequence[str],
    rows: Sequence[Row],
) -> list[bytes | None]:
    """Encrypt a column of many rows, each under its own tenant's key; None stays None."""
    made: list[bytes | None] = [None] * len(values)
    for tenant, places in by_tenant(values, tenants).items():
        if len(places) == len(made):
            return list(_of_one_tenant(envelope, column, all_bytes(column, values), tenant, rows))
        raw = all_bytes(column, [values[n] for n in places])
        blobs = _of_one_tenant(envelope, column, raw, tenant, [rows[n] for n in places])
        for n, blob in zip(places, blobs, strict=True):
            made[n] = blob
    return made


def _of_one_tenant(
    envelope: Envelope, column: EncryptedColumn, raw: Sequence[bytes], tenant: str, rows: Sequence[Row]
) -> list[bytes]:
    if column.mode is Mode.RANDOMISED:
        return envelope.encrypt_many(raw, column.field, tenant=tenant, rows=rows)
    if column.mode is Mode.DETERMINISTIC:
        envelope.keyring.allow_deterministic(column.field)
        write = envelope.keyring.lookup(tenant, column.field, column.generation).encrypt
        return [write(value) for value in raw]
    pairs = zip(raw, rows, strict=True)
    return [envelope.encrypt_inline(value, column.field, tenant=tenant, row=row) for value, row in pairs]


def index(
    envelope: Envelope,
    column: EncryptedColumn,
    how: BlindIndex,
    values: Sequence[Value | None],
    tenants: Sequence[str],
) -> list[bytes | int | None]:
    """Return the blind indexes of a column's values; of None it is None."""
    made: list[bytes | int | None] = [None] * len(values)
    plain = how.normal is Normal.NONE
    for tenant, places in by_tenant(values, tenants).items():
        mine = values if len(places) == len(made) else [values[n] for n in places]
        raw = all_bytes(column, mine)
        forms = raw if plain else [normalised(value, how.normal) for value in mine if value is not None]
        key = envelope.keyring.lookup(tenant, column.field, how.generation)
        for n, form in zip(places, forms, strict=True):
            made[n] = key.index(form, how)
    return made


def decrypt_one(envelope: Envelope, column: EncryptedColumn, blob: bytes, tenant: str, row: Row) -> Value:
    """Decrypt one value in the mode of its column. Errors: ``DecryptionFailed``, also for a value of another mode."""
    check_mode(column, blob)
    raw = envelope.decrypt(blob, column.field, tenant=tenant, row=row)
    return from_bytes(column, raw)


def check_mode(column: EncryptedColumn, blob: bytes) -> None:
    """Refuse a value that is bound to no row where its column's are, and the other way round."""
    if (blob[1:2] == DETERMINISTIC) is not (column.mode is Mode.DETERMINISTIC):
        raise refused(column, blob)


def refused(column: EncryptedColumn, blob: bytes) -> DecryptionFailed:
    """Return the one error of a value that is not decrypted, with the key that its header names."""
    return DecryptionFailed(str(column.field), key_id=key_id(blob))


def key_id(blob: bytes) -> int | None:
    """Return the key that a value's header names, None where it names none."""
    try:
        return parse(blob).key_id
    except ValueError:
        return None


def term(envelope: Envelope, column: EncryptedColumn, how: BlindIndex | None, value: Value, tenant: str) -> bytes | int:
    """Return what a stored value is compared with: a blind index, or what a deterministic column holds."""
    raw = to_bytes(column, value)
    if how is not None:
        return envelope.blind_index(value, column.field, how, tenant=tenant)
    return envelope.encrypt_deterministic(raw, column.field, tenant=tenant, generation=column.generation)


def by_tenant(values: Sequence[Any], tenants: Sequence[str]) -> dict[str, Sequence[int]]:
    """Return for each tenant the places of its values; None is in no place."""
    if None not in values and len(set(tenants)) == 1:
        return {tenants[0]: range(len(values))}
    found: dict[str, Sequence[int]] = {}
    for n, value in enumerate(values):
        if value is not None:
            found.setdefault(tenants[n], []).append(n)  # type: ignore[attr-defined]
    return found


def all_bytes(column: EncryptedColumn, values: Sequence[Any]) -> list[bytes]:
    """Return values as they are encrypted; where all are of the usual type, in a fifth of the time."""
    if set(map(type, values)) == {str} and column.type == "text":
        with suppress(UnicodeEncodeError):  # which of them it is, the longer way tells
            return [value.encode() for value in values]
    return [to_bytes(column, value) for value in values]


def to_bytes(column: EncryptedColumn, value: Any) -> bytes:
    """Return a value as it is encrypted. Errors: ``UsageError`` for another type; it tells no value."""
    if not isinstance(value, _TYPES[column.type]):
        raise _of_another_type(column, value)
    if isinstance(value, bytes):
        return bytes(value)
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"a value of '{column.field}' is no valid Unicode: a surrogate stands alone") from None


def _of_another_type(column: EncryptedColumn, value: object) -> UsageError:
    return UsageError(f"a value of '{column.field}' is {column.type}, not {type(value).__name__}")


def from_bytes(column: EncryptedColumn, raw: bytes) -> Value:
    """Return a decrypted value in its declared type."""
    if column.type != "text":
        return raw
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise DecryptionFailed(str(column.field)) from None
