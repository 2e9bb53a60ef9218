"""Reading: a value comes with the columns that it is bound to, in one bytea, on every path that selects it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

from sqlalchemy import ColumnElement, Dialect, LargeBinary, Table, type_coerce
from sqlalchemy.sql.elements import Grouping, Label
from sqlalchemy.types import UserDefinedType

from dbsec.crypto import batches
from dbsec.crypto.binding import UNBOUND
from dbsec.crypto.envelope import Row
from dbsec.crypto.errors import DecryptionFailed
from dbsec.crypto.orm.attached import attached
from dbsec.crypto.orm.errors import UnboundParameter, Unsearchable
from dbsec.crypto.orm.parts import Kind, sent, tenant_text
from dbsec.crypto.orm.plan import Target, plan_of
from dbsec.crypto.scope import EVERY_TENANT, SCOPE, current

_LENGTH = struct.Struct(">I")
_MOST_NAMES = 10_000
Process = Callable[[Any], Any]
Split = Callable[[bytes], tuple[str, Row, bytes]]


class Carried(UserDefinedType[Any]):
    """What the server sends for one value: parts of the binding, then the ciphertext; made when a query is compiled."""

    cache_ok = False

    def __init__(self, target: Target) -> None:
        self.target = target

    def result_processor(self, dialect: Dialect, coltype: object) -> Process:
        return decrypting(dialect, self.target)


def carried(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the expression that a column is read by. Errors: ``Unbound`` where its row is not in reach."""
    plain = _plain(column)
    target = target_of(plain)
    parts = [] if target.tenant is None else [target.tenant]
    parts += target.row
    read = [sent(beside(plain, part.key), kind, nullable=bool(part.nullable)) for part, kind in parts]
    whole = reduce(lambda left, right: left.op("||")(right), [*read, type_coerce(plain, LargeBinary)])
    return type_coerce(whole, Carried(target))


def target_of(column: ColumnElement[Any]) -> Target:
    """Return the encrypted column of a table that a column of a query comes from. Errors: ``Unsearchable``."""
    origin = next(_origins(_plain(column)), None)
    plan = plan_of(origin.table) if origin is not None else None
    found = plan.targets.get(origin.key) if plan is not None and origin is not None else None
    if found is None:
        shown = getattr(column, "name", None) or type(column).__name__.lower()
        raise Unsearchable(
            f"'{shown}' is made from an encrypted column by the server, which sees ciphertext only",
            hint="select the column itself, and compute in the program",
        )
    return found


def beside(column: ColumnElement[Any], key: str) -> ColumnElement[Any]:
    """Return the column ``key`` of an encrypted column's row, from where it is read: table, alias, subquery.

    Errors: ``Unbound`` for a subquery that has dropped it.
    """
    column = _plain(column)
    source = getattr(column, "table", None)
    if isinstance(source, Table):
        here: ColumnElement[Any] = source.c[key]
        return here
    for inner in getattr(column, "_proxies", ()):
        found = source.corresponding_column(beside(inner, key)) if source is not None else None
        if isinstance(found, ColumnElement):
            return found
    target = target_of(column)
    raise UnboundParameter(
        f"a value of '{target.declared.field}' is read from a subquery without '{key}', which it is bound to",
        hint=f"select '{key}' in the subquery too",
    )


def decrypting(dialect: Dialect, target: Target) -> Process:
    """Return what turns bytes of the server into a value.

    Errors: ``DecryptionFailed``; ``Unbound``; ``KmsUnavailable``.
    """
    column = target.declared
    field, text = column.field, column.type == "text"
    split = splitting(target)
    decrypt = attached(dialect).envelope.decrypt
    scope_of = SCOPE.get
    bound = target.tenant is not None

    def process(value: Any) -> Any:
        if value is None:
            return None
        tenant, row, blob = split(value)
        if bound and (scope := scope_of()) != tenant and scope is not EVERY_TENANT:
            current()
            raise DecryptionFailed(str(field), key_id=batches.key_id(blob))
        batches.check_mode(column, blob)
        raw = decrypt(blob, field, tenant=tenant, row=row)
        return raw.decode() if text else raw

    return process


def splitting(target: Target) -> Split:
    """Return what takes tenant, row and ciphertext apart, made for the types of the table."""
    name = _naming(target.tenant[1]) if target.tenant else None
    kinds = [kind for _, kind in target.row]
    if len(kinds) == 1 and kinds[0].width and (target.tenant is None or target.tenant[1].width):
        return _fixed(name, target.tenant[1].width if target.tenant else 0, kinds[0])
    tenant_kind = target.tenant[1] if target.tenant else None

    def split(value: bytes) -> tuple[str, Row, bytes]:
        value, at, tenant = bytes(value), 0, ""
        if tenant_kind is not None and name is not None:
            raw, at = _part(tenant_kind, value, at)
            tenant = name(raw)
        row = []
        for kind in kinds:
            raw, at = _part(kind, value, at)
            row.append(kind.read(raw))
        return tenant, (tuple(row) if len(row) > 1 else row[0] if row else UNBOUND), value[at:]

    return split


def _fixed(name: Callable[[bytes], str] | None, width: int, kind: Kind) -> Split:
    """The usual case: a tenant and an id of fixed widths."""
    end = width + kind.width
    read = kind.read

    def split(value: bytes) -> tuple[str, Row, bytes]:
        return (name(value[:width]) if name else ""), read(value[width:end]), value[end:]

    return split


def _naming(kind: Kind) -> Callable[[bytes], str]:
    """Return the text of a tenant by its bytes; a UUID takes longer to be made than a value to be decrypted."""
    known: dict[bytes, str] = {}

    def name(raw: bytes) -> str:
        found = known.get(raw)
        if found is None:
            if len(known) > _MOST_NAMES:
                known.clear()
            found = known[bytes(raw)] = tenant_text(kind.read(bytes(raw))) or ""
        return found

    return name


def _part(kind: Kind, value: bytes, at: int) -> tuple[bytes, int]:
    width = kind.width
    if not width:
        (width,), at = _LENGTH.unpack_from(value, at), at + _LENGTH.size
    return value[at : at + width], at + width


def _plain(column: Any) -> Any:
    while isinstance(column, Label | Grouping):
        column = column.element
    return column


def _origins(column: ColumnElement[Any]) -> Iterator[Any]:
    """Walk down to the columns of tables that a column stands for."""
    column = _plain(column)
    if isinstance(getattr(column, "table", None), Table):
        yield column
    for inner in getattr(column, "_proxies", ()):
        yield from _origins(inner)
