"""Columns that say whose row it is and which: how each type is read with a value, written and bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Column, ColumnElement, Enum, Integer, LargeBinary, String, Uuid, func, literal_column

from dbsec.crypto.binding import RowPart
from dbsec.crypto.errors import ModeRefused, Unbound
from dbsec.crypto.scope import tenant_name


@dataclass(frozen=True)
class Kind:
    """One type. ``width`` is of its bytes on the wire, 0 where a length of 4 bytes stands before them.

    ``sent`` is the expression whose bytes ``read`` understands; ``normal`` brings what a program gives into
    the one form that is bound.
    """

    width: int
    sent: Callable[[ColumnElement[Any]], ColumnElement[Any]]
    read: Callable[[bytes], RowPart]
    normal: Callable[[Any], RowPart | None]
    type: type

    def normals(self, values: list[Any]) -> list[Any]:
        """Bring many into that form; most often they have it."""
        return values if set(map(type, values)) == {self.type} else [self.normal(value) for value in values]


def kind_of(column: Column[Any]) -> Kind:
    """Return how a column is bound. Errors: ``ModeRefused`` for a type without one form."""
    what = f"'{column.table.fullname}.{column.name}'"
    for known, kind in _KINDS.items():
        if isinstance(column.type, known) and not isinstance(column.type, Enum):
            return kind
    shown = type(column.type).__name__
    raise ModeRefused(f"{what} is of type {shown}: values are bound to integer, uuid, text or bytea", hint="row=(...)")


def sent(column: ColumnElement[Any], kind: Kind, *, nullable: bool) -> ColumnElement[Any]:
    """Return the expression of a column's bytes. NULL must not make NULL of the value beside it: that would lose it."""
    whole = kind.sent(column)
    return func.coalesce(whole, literal_column("''::bytea")) if nullable else whole


def tenant_text(part: RowPart | None) -> str | None:
    """Return the text that a tenant column's value stands for."""
    if isinstance(part, bytes):
        raise Unbound("a tenant is text, a uuid or an integer, not bytea")
    return None if part is None else tenant_name(part)


def tenant_value(column: Column[Any], tenant: str) -> Any:
    """Return what is written into the tenant column for the tenant of the scope. Errors: ``Unbound``."""
    try:
        if isinstance(column.type, Integer):
            return int(tenant)
        if isinstance(column.type, Uuid) and column.type.as_uuid:
            return UUID(tenant)
    except ValueError:
        raise Unbound(f"the tenant of the scope does not fit into column '{column.name}'") from None
    return tenant


def _integer(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise Unbound(f"an id of type integer came as {type(value).__name__}")
    return value


def _uuid(value: Any) -> UUID | None:
    if value is None or isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except (ValueError, TypeError, AttributeError):
        raise Unbound(f"an id of type uuid came as {type(value).__name__}") from None


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise Unbound(f"an id of type text came as {type(value).__name__}")
    return value


def _bytes(value: Any) -> bytes | None:
    if value is not None and not isinstance(value, bytes | bytearray | memoryview):
        raise Unbound(f"an id of type bytea came as {type(value).__name__}")
    return None if value is None else bytes(value)


def _behind_length(raw: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.int4send(func.octet_length(raw)).op("||")(raw)


_KINDS: dict[type, Kind] = {
    Integer: Kind(8, func.int8send, lambda raw: int.from_bytes(raw, "big", signed=True), _integer, int),
    Uuid: Kind(16, func.uuid_send, lambda raw: UUID(bytes=raw), _uuid, UUID),
    String: Kind(0, lambda column: _behind_length(func.convert_to(column, "UTF8")), bytes.decode, _text, str),
    LargeBinary: Kind(0, _behind_length, bytes, _bytes, bytes),
}
