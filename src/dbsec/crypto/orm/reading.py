"""Reading: a value comes with the columns that it is bound to, in one bytea, on every path that selects it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import Any

from sqlalchemy import ColumnElement, Dialect, LargeBinary, Table, type_coerce
from sqlalchemy.sql.elements import Grouping, Label
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import UserDefinedType

from dbsec.crypto import batches
from dbsec.crypto.binding import UNBOUND
from dbsec.crypto.columns import Mode
from dbsec.crypto.envelope import Row
from dbsec.crypto.orm.attached import attached
from dbsec.crypto.orm.errors import UnboundParameter, Unsearchable
from dbsec.crypto.orm.parts import Kind, sent, tenant_text
from dbsec.crypto.orm.plan import Target, plan_of
from dbsec.crypto.orm.waiting import apart
from dbsec.crypto.scope import EVERY_TENANT, SCOPE, current

_INT8 = struct.Struct(">q")
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
        shown = f"{column.name}()" if isinstance(column, FunctionElement) else type(column).__name__
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
    deterministic = column.mode is Mode.DETERMINISTIC
    split, scope_of = splitting(target), SCOPE.get
    envelope = attached(dialect).envelope
    # past Envelope.decrypt, which costs a value a fifth more: a key that is cached and has not expired
    keyring = envelope.keyring
    bound = target.tenant is not None

    def process(value: Any) -> Any:
        if value is None:
            return None
        tenant, row, blob = split(value)
        if bound and (scope := scope_of()) != tenant and scope is not EVERY_TENANT:
            current()
            raise batches.refused(column, blob)
        reader = None if deterministic else keyring.readers.get((tenant, field, blob[:6]))
        if reader is not None and reader.expires > keyring.now():
            reader.hot = True
            raw = reader.decrypt(blob, row)
        else:
            batches.check_mode(column, blob)
            act = partial(envelope.decrypt, blob, field, tenant=tenant, row=row)
            raw = act() if deterministic else apart(dialect, act)
        if not text:
            return raw
        try:
            return raw.decode()
        except UnicodeDecodeError:  # it holds the value
            raise batches.refused(column, blob) from None

    return process


def splitting(target: Target) -> Split:
    """Return what takes tenant, row and ciphertext apart, made for the types of the table."""
    names = None if target.tenant is None else Names(target.tenant[1])
    kinds = [kind for _, kind in target.row]
    if [kind.width for kind in kinds] == [_INT8.size] and (names is None or names.kind.width):
        return _fixed(names, names.kind.width if names is not None else 0)

    def split(value: bytes) -> tuple[str, Row, bytes]:
        value, at, tenant = bytes(value), 0, ""
        if names is not None:
            raw, at = _part(names.kind, value, at)
            tenant = names[raw]
        row = []
        for kind in kinds:
            raw, at = _part(kind, value, at)
            row.append(kind.read(raw))
        return tenant, (tuple(row) if len(row) > 1 else row[0] if row else UNBOUND), value[at:]

    return split


def _fixed(names: Names | None, width: int) -> Split:
    """The usual case, in a third of the time: a tenant of a fixed width, and an integer."""
    end = width + _INT8.size
    unpack = _INT8.unpack_from

    def split(value: bytes) -> tuple[str, Row, bytes]:
        if len(value) < end:
            return "", UNBOUND, b""
        return ("" if names is None else names[value[:width]]), unpack(value, width)[0], value[end:]

    return split


class Names(dict[bytes, str]):
    """The text of a tenant by its bytes: a UUID takes longer to be made than a value to be decrypted."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind

    def __missing__(self, raw: bytes) -> str:
        if len(self) > _MOST_NAMES:
            self.clear()
        name = self[raw] = tenant_text(self.kind.read(raw)) or ""
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
