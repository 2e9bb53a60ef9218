"""``[crypto]`` of dbsec.toml: which KMS, how long a key serves, and the columns that are encrypted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from pydantic import Field as Value
from pydantic import ValidationError, field_validator

from dbsec.config import Config, Section, Span
from dbsec.crypto.binding import Field
from dbsec.crypto.columns import EncryptedColumn, Mode
from dbsec.crypto.keyring import Profile
from dbsec.crypto.lookup import BlindIndex, Normal
from dbsec.errors import ConfigError, DbsecError


class IndexSettings(Section):
    """``index`` of a column: the column that holds the blind index, and how it is made."""

    column: str
    bits: int = 256
    generation: int = 1
    normal: Normal = Normal.NONE


class ColumnSettings(Section):
    """One of ``[[crypto.columns]]``.

    ``field`` is context and column as they are bound into each value and never change, whatever the table is called:
    ``app.users.phone``. ``table`` and ``column`` are the names of today.
    """

    table: str
    column: str
    field: str
    mode: Mode = Mode.RANDOMISED
    tenant: str | None = None
    row: tuple[str, ...] = ("id",)
    index: IndexSettings | None = None
    generation: int = Value(default=1, ge=1)
    type: Literal["text", "bytes"] = "text"

    @field_validator("field")
    @classmethod
    def _has_two_parts(cls, text: str) -> str:
        context, _, column = text.rpartition(".")
        if not context or not column:
            raise ValueError("name context and column: 'app.users.phone'")
        return text

    @field_validator("table")
    @classmethod
    def _has_a_schema(cls, text: str) -> str:
        if "." not in text:
            raise ValueError(f"name its schema: 'public.{text}'")
        return text

    def declared(self) -> EncryptedColumn:
        """Return the declaration that the library uses. Errors: ``ModeRefused``."""
        context, _, column = self.field.rpartition(".")
        index = self.index
        blind = BlindIndex(index.bits, index.generation, index.normal) if index is not None else None
        return EncryptedColumn(
            table=self.table,
            column=self.column,
            field=Field(context, column),
            mode=self.mode,
            tenant=self.tenant,
            row=self.row,
            index=(index.column, blind) if index is not None and blind is not None else None,
            generation=self.generation,
            type=self.type,
        )


class CryptoSettings(Section):
    """``kms`` is a uri, one with ``{tenant}`` in it where each tenant has a KEK of its own.

    ``keyring`` refers to the DSN of the keyring's database (env: or file:) where that is not the one of the tables.
    ``ttl``: how long a key serves after it was unwrapped, and how long one that was shredded may still serve in a
    process that has it. ``cadence``: the age at which a DEK is to be rotated; ``kek_cadence``: at which a KEK is.
    """

    kms: str = Value(default="", repr=False)  # a value where a reference belongs is refused, but may stand here
    keyring: str = Value(default="", repr=False)
    profile: Profile = Profile.STANDARD
    ttl: Span = timedelta(minutes=5)
    max_keys: int = Value(default=10_000, ge=1)
    max_uses: int | None = Value(default=None, ge=1)
    cadence: Span = timedelta(days=365)
    columns: tuple[ColumnSettings, ...] = ()

    @property
    def declared(self) -> tuple[EncryptedColumn, ...]:
        """The columns as the library takes them. Errors: ``ConfigError``."""
        return tuple(_declared(one) for one in self.columns)

    def of(self, table: str, column: str) -> EncryptedColumn:
        """Return the declaration of a column. Errors: ``ConfigError``, naming those that there are."""
        for one in self.columns:
            if (one.table, one.column) == (table, column):
                return _declared(one)
        known = ", ".join(f"{one.table}.{one.column}" for one in self.columns) or "none"
        raise ConfigError(
            f"[crypto]: '{table}.{column}' is no encrypted column", hint=f"[[crypto.columns]] has {known}"
        )


def of(config: Config) -> CryptoSettings:
    """Read the table of a configuration. Errors: ``ConfigError`` with the key."""
    return of_table(config.pillars.get("crypto", {}))


def of_table(table: dict[str, Any]) -> CryptoSettings:
    """Read the settings from a table of a TOML file. Errors: ``ConfigError`` with the key, without what it holds."""
    try:
        found = CryptoSettings.model_validate(table)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        text = first["msg"].removeprefix("Value error, ")
        raise ConfigError(
            f"[crypto] '{key}': {text[:1].lower()}{text[1:]}", hint="see docs/envelope_crypto.md"
        ) from exc
    _check(found)
    return found


def _check(found: CryptoSettings) -> None:
    """A field may have two columns (that of the next generation beside the old one), but not two tables."""
    names: set[str] = set()
    table_of: dict[Field, str] = {}
    for one in found.declared:
        name = f"{one.table}.{one.column}"
        if name in names:
            raise ConfigError(f"[[crypto.columns]]: '{name}' is declared twice")
        names.add(name)
        if table_of.setdefault(one.field, one.table) != one.table:
            raise ConfigError(
                f"[[crypto.columns]] '{name}': field '{one.field}' is of '{table_of[one.field]}' already",
                hint="two tables of one field: a value of one could be moved into the other",
            )


def _declared(one: ColumnSettings) -> EncryptedColumn:
    try:
        return one.declared()
    except DbsecError as exc:
        raise ConfigError(f"[[crypto.columns]] '{one.table}.{one.column}': {exc}", hint=exc.hint) from exc
