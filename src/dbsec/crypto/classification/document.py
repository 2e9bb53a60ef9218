"""The file of a classification: which columns there are, what they hold, how that is kept, why, and who answers."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError

from dbsec.config import Section
from dbsec.errors import ConfigError, reason

FORMAT = 1
_Said = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Class(StrEnum):
    """What harm a value does in the wrong hands."""

    PUBLIC = "public"  # none: it may be printed
    INTERNAL = "internal"  # little: identifiers, times, amounts
    PERSONAL = "personal"  # it tells of a person, or leads to one
    SECRET = "secret"  # noqa: S105 it opens something: a password, a key, and what is made from one


class Handling(StrEnum):
    """How a column keeps its values."""

    CLEAR = "clear"
    RANDOMISED = "randomised"
    DETERMINISTIC = "deterministic"
    INLINE = "inline"
    BLIND_INDEX = "blind-index"
    HASH = "hash"

    @property
    def heads(self) -> tuple[bytes, ...]:
        """The first two bytes of its values, where it is encrypted: ``reencrypt`` may leave two kinds side by side."""
        return _HEADS.get(self, ())


_HEADS = {
    Handling.RANDOMISED: (b"\xd5\x11", b"\xd5\x13"),
    Handling.INLINE: (b"\xd5\x11", b"\xd5\x13"),
    Handling.DETERMINISTIC: (b"\xd5\x12",),
}


class ColumnEntry(Section):
    """One column in the file.

    ``until`` names the encrypted column that takes its place: it may be gone, and where it is not, that is told.
    ``along`` names the column that it comes and goes with, as a blind index does.
    """

    class_: Class = Field(alias="class")
    mode: Handling
    reason: _Said
    owner: str = ""
    until: str = ""
    along: str = ""


class TableEntry(Section):
    """One table; ``owner`` answers for the columns that name none."""

    owner: str = ""
    columns: dict[str, ColumnEntry]


class _Document(Section):
    format: int
    schemas: tuple[_Said, ...] = Field(min_length=1)
    tables: dict[str, TableEntry]


@dataclass(frozen=True, slots=True)
class ListedColumn:
    """A column of the file; ``table`` with its schema."""

    table: str
    column: str
    kind: Class
    mode: Handling
    reason: str
    owner: str
    until: str = ""
    along: str = ""

    @property
    def name(self) -> str:
        """Table and column."""
        return f"{self.table}.{self.column}"


@dataclass(frozen=True, slots=True)
class Classification:
    """All columns of some schemas."""

    schemas: tuple[str, ...]
    columns: tuple[ListedColumn, ...]

    def of(self, name: str) -> ListedColumn | None:
        """Find a column by ``schema.table.column``."""
        return next((one for one in self.columns if one.name == name), None)


def load(path: Path) -> Classification:
    """Read a classification. Errors: ``ConfigError`` with the file and the key."""
    try:
        with path.open("rb") as file:
            found = _Document.model_validate(tomllib.load(file))
    except OSError as exc:
        raise ConfigError(f"cannot read '{path}': {exc.strerror}", hint=f"ls -l {path}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"'{path}' is no TOML: {reason(exc)}") from exc
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"'{path}': '{key}': {first['msg'].lower()}") from exc
    if found.format != FORMAT:
        raise ConfigError(f"'{path}' has format {found.format}, and this dbsec reads {FORMAT}")
    columns = [_listed(table, entry, name) for table, entry in found.tables.items() for name in entry.columns]
    _check(path, found.schemas, columns)
    return Classification(found.schemas, tuple(columns))


def _listed(table: str, entry: TableEntry, name: str) -> ListedColumn:
    one = entry.columns[name]
    return ListedColumn(
        table=table,
        column=name,
        kind=one.class_,
        mode=one.mode,
        reason=one.reason,
        owner=one.owner or entry.owner,
        until=one.until,
        along=one.along,
    )


def _check(path: Path, schemas: tuple[str, ...], columns: list[ListedColumn]) -> None:
    names = {one.name for one in columns}
    for one in columns:
        schema, _, table = one.table.partition(".")
        if not table or schema not in schemas:
            raise ConfigError(f"'{path}': the table '{one.table}' is in none of the schemas {', '.join(schemas)}")
        if not one.owner:
            raise ConfigError(f"'{path}': '{one.name}' has no owner", hint=f'[tables."{one.table}"] owner = "..."')
        for other in filter(None, (one.until, one.along)):
            if other == one.column or f"{one.table}.{other}" not in names:
                raise ConfigError(f"'{path}': '{one.name}' names '{other}', which is no other column of its table")
        if one.kind is Class.SECRET and one.mode is Handling.CLEAR and not one.until:
            raise ConfigError(
                f"'{path}': '{one.name}' is secret and in clear",
                hint='encrypt or hash it; until then: until = "COLUMN"',
            )
