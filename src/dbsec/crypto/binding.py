"""What a value is bound to: the AAD, byte by byte, and the labels under which keys are derived."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from operator import attrgetter
from typing import Final, NamedTuple
from uuid import UUID

from dbsec.canonical import length_prefixed
from dbsec.crypto.errors import Unbound

RowPart = int | UUID | str | bytes
RowId = RowPart | tuple[RowPart, ...]

_AAD: Final = b"dbsec/aad/1"
_INT8 = struct.Struct(">BIq")  # type, length, value
pack_int8 = struct.Struct(">q").pack
ONE_INT8: Final = struct.pack(">IBI", 13, 1, 8)  # before the value, where a row's id is this part alone
_uuid_bytes = attrgetter("bytes")
_ONE_UUID: Final = struct.pack(">IBI", 21, 2, 16)
_HEAD = struct.Struct(">BI")
_LENGTH = struct.Struct(">I")
LEAST_INT8: Final = -(2**63)
MOST_INT8: Final = 2**63 - 1


class Unbinding(Enum):
    """The one value that stands for "bound to no row"."""

    UNBOUND = "unbound"


UNBOUND: Final = Unbinding.UNBOUND


class RowType(int, Enum):
    """The type of one part of a row's id, as it stands before it."""

    INT8 = 1
    UUID = 2
    TEXT = 3
    BYTEA = 4
    VERSION = 0x7F


class Field(NamedTuple):
    """A column under names that never change: a table that is renamed keeps its context, and its values.

    ``context`` stands for the table, ``column`` for the column. Keys are derived from both, and values bound to them.
    A tuple, because it is looked up for each value.
    """

    context: str
    column: str

    def __str__(self) -> str:
        return f"{self.context}.{self.column}"


def label(purpose: bytes, tenant: str, place: Field) -> bytes:
    """Return the info of HKDF for the subkey of a column. Shape: length-prefixed purpose, tenant, context, column."""
    return length_prefixed([purpose, tenant.encode(), place.context.encode(), place.column.encode()])


def aad_prefix(tenant: str, place: Field, header: bytes) -> bytes:
    """Return the AAD but for its last part, the row."""
    return length_prefixed([_AAD, tenant.encode(), place.context.encode(), place.column.encode(), header])


def row_part(row: RowId | Unbinding, version: int | None = None) -> bytes:
    """Return the last part of the AAD, with its length.

    Shape: 4 bytes length of all that follows; for each part 1 byte type, 4 bytes length, value. An integer is 8 bytes
    big-endian in two's complement, a uuid 16 bytes, text UTF-8. The row's version, where it is bound, comes last.
    Errors: ``Unbound`` for a missing id, or one of a type that has no one form (a float, a date, a bool).
    """
    if version is None:  # the usual ids in one step: it is a tenth of a value's time
        if type(row) is int and LEAST_INT8 <= row <= MOST_INT8:
            return ONE_INT8 + pack_int8(row)
        if type(row) is UUID:
            return _ONE_UUID + row.bytes
    parts = () if row is UNBOUND else row if isinstance(row, tuple) else (row,)
    if row is not UNBOUND and not parts:
        raise Unbound("a row's id has no parts", hint="UNBOUND says that a value is bound to no row")
    encoded = b"".join([_part(part) for part in parts])
    if version is not None:
        encoded += _int8(version, RowType.VERSION)
    return _LENGTH.pack(len(encoded)) + encoded


def aads(prefix: bytes, rows: Iterable[RowId | Unbinding]) -> list[bytes]:
    """Return the AADs of many rows: what stands before, and each one's ``row_part``. Errors: ``Unbound``."""
    rows = rows if isinstance(rows, Sequence) else list(rows)
    types = set(map(type, rows))
    if types == {int}:
        head = prefix + ONE_INT8
        try:
            return [head + value for value in map(pack_int8, rows)]
        except struct.error:  # one is too large: row_part says so
            pass
    if types == {UUID}:
        head = prefix + _ONE_UUID
        return [head + value for value in map(_uuid_bytes, rows)]
    return [prefix + row_part(row) for row in rows]


def _part(part: object) -> bytes:
    write = _WRITERS.get(type(part)) or _of_subclass(part)
    return write(part)


def _of_subclass(part: object) -> Callable[[object], bytes]:
    """A driver's own UUID or str is as good; a bool is no integer here, and None is no id."""
    for known, write in _WRITERS.items():
        if isinstance(part, known) and not isinstance(part, bool):
            return write
    what = "it is not known yet" if part is None else f"a {type(part).__name__} has no one form"
    raise Unbound(f"a value cannot be bound to its row: {what}", hint="an id is an int, a UUID, a str or bytes")


def _int8(value: object, kind: RowType = RowType.INT8) -> bytes:
    if not isinstance(value, int) or not LEAST_INT8 <= value <= MOST_INT8:
        raise Unbound("a row's id does not fit into 8 bytes", hint="bind it as text: str(id)")
    return _INT8.pack(kind, 8, value)


def _typed(kind: RowType, raw: bytes) -> bytes:
    return _HEAD.pack(kind, len(raw)) + raw


def _text(value: object) -> bytes:
    try:
        return _typed(RowType.TEXT, str(value).encode())
    except UnicodeEncodeError:  # it would quote the id
        raise Unbound("a row's id is no text: half a surrogate pair", hint="an id is what the database has") from None


_WRITERS: dict[type, Callable[[object], bytes]] = {
    int: _int8,
    UUID: lambda part: _typed(RowType.UUID, part.bytes),  # type: ignore[attr-defined]
    str: _text,
    bytes: lambda part: _typed(RowType.BYTEA, part),  # type: ignore[arg-type]
}
