"""Cursors for keyset paging: opaque to the client, typed for the service, bound to one scope by HMAC-SHA256.

A cursor says "the page after this row" by the row's sort key. It is signed, because a client that could write one
would choose where a query starts; and bound to a scope (the tenant, the list and its order), because the same bytes
mean something else elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TypeVar, overload
from uuid import UUID

from dbsec import canonical
from dbsec.errors import UsageError

__all__ = ["MAX_CHARS", "CursorError", "Cursors"]

Value = int | str | datetime | UUID

A = TypeVar("A", int, str, datetime, UUID)
B = TypeVar("B", int, str, datetime, UUID)
C = TypeVar("C", int, str, datetime, UUID)

FORMAT = 1
MAX_CHARS = 4096
_MAGIC = b"dk"
_DOMAIN = b"dbsec keyset cursor"
_MAC_BYTES = hashlib.sha256().digest_size
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TYPES: dict[bytes, type] = {b"i": int, b"s": str, b"t": datetime, b"u": UUID}


class CursorError(UsageError):
    """A cursor that this scope did not write, or a value that a cursor cannot hold."""


class Cursors:
    """Writes and reads the cursors of one scope.

    ``scope`` names all that a cursor must not be moved between: ``("orders by created_at, id", tenant)``.
    Shape: base64url without padding of ``dk``, 1 byte version, 32 bytes HMAC, then the values, each as 4 bytes
    big-endian length, 1 byte type (i, s, t, u) and: 8 bytes signed; UTF-8; 8 bytes signed microseconds since 1970
    in UTC; 16 bytes. The HMAC covers version, scope and values, all length-prefixed.
    """

    def __init__(self, key: bytes, scope: Iterable[str]) -> None:
        if len(key) < 16:
            raise UsageError(f"a cursor key has at least 16 bytes, this one has {len(key)}")
        self._key = key
        self._scope = canonical.length_prefixed(part.encode() for part in scope)

    def encode(self, *values: Value) -> str:
        """Write the cursor after the row with these sort values.

        Errors: ``CursorError`` for a naive datetime, an integer beyond bigint, text that is not Unicode, another type.
        """
        body = canonical.length_prefixed(_pack(value) for value in values)
        text = _text(_MAGIC + bytes([FORMAT]) + self._mac(body) + body)
        if len(text) > MAX_CHARS:
            raise CursorError(f"the sort values make a cursor of {len(text)} characters, above {MAX_CHARS}")
        return text

    @overload
    def decode(self, cursor: str, a: type[A], /) -> tuple[A]: ...
    @overload
    def decode(self, cursor: str, a: type[A], b: type[B], /) -> tuple[A, B]: ...
    @overload
    def decode(self, cursor: str, a: type[A], b: type[B], c: type[C], /) -> tuple[A, B, C]: ...
    def decode(self, cursor: str, /, *types: type) -> tuple[Value, ...]:
        """Read the values that ``encode`` was given, in these types.

        Errors: ``CursorError`` alone, also for a newer format: whoever sends a cursor learns nothing from the class.
        """
        raw = _raw(cursor)
        head, mac, body = raw[:3], raw[3 : 3 + _MAC_BYTES], raw[3 + _MAC_BYTES :]
        if head[:2] != _MAGIC or len(mac) != _MAC_BYTES:
            raise CursorError("the cursor is not one of ours")
        if head[2] > FORMAT:
            raise CursorError(f"the cursor was written by a newer dbsec (format {head[2]}, this one knows {FORMAT})")
        if head[2] != FORMAT or not hmac.compare_digest(mac, self._mac(body)):
            raise CursorError("the cursor was changed, or belongs to another list")
        parts = list(_parts(body))
        if [_TYPES.get(part[:1]) for part in parts] != list(types):
            raise CursorError("the cursor holds other columns than this list is sorted by")
        return tuple(_unpack(part) for part in parts)

    def _mac(self, body: bytes) -> bytes:
        covered = canonical.length_prefixed((_DOMAIN, bytes([FORMAT]), self._scope, body))
        return hmac.digest(self._key, covered, hashlib.sha256)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def _raw(cursor: str) -> bytes:
    if len(cursor) > MAX_CHARS:
        raise CursorError(f"the cursor has {len(cursor)} characters, above {MAX_CHARS}")
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as exc:
        raise CursorError("the cursor is not base64url") from exc
    # The last character has bits that decoding drops: without this, two texts would be one cursor.
    if _text(raw) != cursor:
        raise CursorError("the cursor is not base64url")
    return raw


def _pack(value: object) -> bytes:
    try:
        match value:
            case bool():
                pass
            case int():
                return b"i" + struct.pack(">q", value)
            case str():
                return b"s" + value.encode()
            case datetime() if value.tzinfo is not None:
                return b"t" + struct.pack(">q", (value.astimezone(UTC) - _EPOCH) // _MICROSECOND)
            case UUID():
                return b"u" + value.bytes
    except (struct.error, UnicodeEncodeError, OverflowError) as exc:
        raise CursorError(f"a cursor cannot hold this {type(value).__name__}: {exc}") from exc
    raise CursorError(f"a cursor holds int, text, aware datetime and UUID, not this {type(value).__name__}")


def _unpack(part: bytes) -> Value:
    tag, raw = part[:1], part[1:]
    if tag == b"s":
        return raw.decode()
    if tag == b"u":
        return UUID(bytes=raw)
    number = int(struct.unpack(">q", raw)[0])
    return number if tag == b"i" else _EPOCH + number * _MICROSECOND


def _parts(body: bytes) -> Iterator[bytes]:
    # Runs only on what our own key has signed, so lengths are those that encode wrote.
    at = 0
    while at < len(body):
        (size,) = struct.unpack_from(">I", body, at)
        yield body[at + 4 : at + 4 + size]
        at += 4 + size
