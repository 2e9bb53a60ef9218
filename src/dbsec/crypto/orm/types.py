"""The types of an encrypted column and of its blind index: nothing reaches the server through them in clear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Dialect
from sqlalchemy.orm import MappedColumn, mapped_column
from sqlalchemy.types import UserDefinedType

from dbsec.crypto.binding import Field
from dbsec.crypto.columns import Mode
from dbsec.crypto.errors import ModeRefused
from dbsec.crypto.lookup import BlindIndex
from dbsec.crypto.orm.errors import UnboundParameter

DOMAINS = {mode: f"encrypted{'_deterministic' * (mode is Mode.DETERMINISTIC)}" for mode in Mode}
Process = Callable[[Any], Any]


class Ciphertext(bytes):
    """A value that was encrypted for its row; the only thing that passes to the server."""

    __slots__ = ()


class IndexBytes(bytes):
    """A blind index of 64 bits and more, made by us."""

    __slots__ = ()


class IndexNumber(int):
    """A blind index of up to 63 bits, made by us."""

    __slots__ = ()


class Encrypted(UserDefinedType[Any]):
    """The type of an encrypted column.

    ``field`` are names that never change. ``tenant`` is the column that says whose the row is (None: nobody's), ``row``
    the columns of the row's id (empty: the primary key); both are keys of columns in the same table. ``type`` is what a
    program sees: "text" or "bytes". ``generation`` is of the lookup key of a deterministic column. ``domain`` False
    is a column of plain bytea: a live table is given a CHECK instead, because adding a column of a domain rewrites it.
    """

    cache_ok = True

    def __init__(
        self,
        field: Field,
        *,
        mode: Mode = Mode.RANDOMISED,
        tenant: str | None = None,
        row: Sequence[str] = (),
        generation: int = 1,
        type: str = "text",
        domain: bool = True,
    ) -> None:
        if type not in ("text", "bytes"):
            raise ModeRefused(f"'{field}' is of type '{type}'", hint="text or bytes")
        self.field = field
        self.mode = Mode(mode)
        self.tenant = tenant
        self.row = tuple(row)
        self.generation = generation
        self.type = type
        self.domain = domain

    @property
    def python_type(self) -> type[Any]:
        return str if self.type == "text" else bytes

    @property
    def comparator_factory(self) -> Any:  # type: ignore[override]
        from dbsec.crypto.orm.comparators import EncryptedComparator  # which needs this type

        return EncryptedComparator

    def get_col_spec(self, **_: Any) -> str:
        return f"dbsec.{DOMAINS[self.mode]}" if self.domain else "BYTEA"

    def bind_processor(self, dialect: Dialect) -> Process:
        return _only(self.field, Ciphertext)

    def literal_processor(self, dialect: Dialect) -> Process:
        return _only(self.field)

    def column_expression(self, colexpr: ColumnElement[Any]) -> ColumnElement[Any]:
        """Read a value together with the columns that it is bound to. Errors: ``Unbound``."""
        from dbsec.crypto.orm.reading import carried  # which needs this type

        return carried(colexpr)

    def result_processor(self, dialect: Dialect, coltype: object) -> Process:
        """Refuse: what ``column_expression`` has not seen (text(), a function) comes without its row."""
        field = self.field

        def refuse(value: Any) -> Any:
            if value is None:
                return None
            raise UnboundParameter(
                f"a value of '{field}' was read without its row", hint="select the column itself, not through text()"
            )

        return refuse

    def __repr__(self) -> str:
        told = [repr(self.field)]
        if self.mode is not Mode.RANDOMISED:
            told.append(f"mode={self.mode.value!r}")
        plain = {"tenant": None, "row": (), "generation": 1, "type": "text", "domain": True}
        told += [f"{name}={getattr(self, name)!r}" for name, value in plain.items() if getattr(self, name) != value]
        return f"Encrypted({', '.join(told)})"


class BlindIndexed(UserDefinedType[Any]):
    """The type of a column beside an encrypted one, named by ``of``: filled by us, found by ``==`` on that one.

    Of several with one ``of`` the first in the table is searched: a rotation adds one with the next generation.
    An index of few bits finds other rows too, by design: compare what was loaded.
    """

    cache_ok = True

    def __init__(self, of: str, how: BlindIndex) -> None:
        self.of = of
        self.how = how

    @property
    def comparator_factory(self) -> Any:  # type: ignore[override]
        from dbsec.crypto.orm.comparators import IndexComparator  # which needs this type

        return IndexComparator

    def get_col_spec(self, **_: Any) -> str:
        return "BIGINT" if self.how.integer else "BYTEA"

    def bind_processor(self, dialect: Dialect) -> Process:
        return _only(f"index of {self.of}", IndexBytes, IndexNumber)

    def literal_processor(self, dialect: Dialect) -> Process:
        return _only(f"index of {self.of}")

    def __repr__(self) -> str:
        return f"BlindIndexed({self.of!r}, {self.how!r})"


def encrypted_column(
    field: Field,
    *,
    mode: Mode = Mode.RANDOMISED,
    tenant: str | None = None,
    row: Sequence[str] = (),
    generation: int = 1,
    type: str = "text",
    domain: bool = True,
    **options: Any,
) -> MappedColumn[Any]:
    """Declare ``phone: Mapped[str] = encrypted_column(Field("app.users", "phone"), tenant="tenant_id")``.

    Arguments: those of ``Encrypted``; ``options`` go to ``mapped_column``.
    """
    kind = Encrypted(field, mode=mode, tenant=tenant, row=row, generation=generation, type=type, domain=domain)
    return mapped_column(kind, **options)


def index_column(of: str, how: BlindIndex, **options: Any) -> MappedColumn[Any]:
    """Declare the blind index beside an encrypted column: ``phone_bidx: Mapped[int] = index_column("phone", ...)``.

    It is not loaded with its row unless it is asked for. ``options`` go to ``mapped_column``.
    """
    return mapped_column(BlindIndexed(of, how), **{"deferred": True, **options})


def _only(what: object, *made: type) -> Process:
    def pass_on(value: Any) -> Any:
        if value is None or type(value) in made:
            return value
        raise UnboundParameter(
            f"a value of '{what}' was on its way to the server in clear, bound to no row",
            hint="write whole rows by insert(), session.add() or update() with the id in WHERE",
        )

    return pass_on
