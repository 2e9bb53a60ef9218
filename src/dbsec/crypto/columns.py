"""One declaration of an encrypted column, for the ORM, the wrapper of psycopg and the command line alike."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dbsec.crypto.binding import Field
from dbsec.crypto.errors import ModeRefused
from dbsec.crypto.lookup import BlindIndex


class Mode(StrEnum):
    """How a column is encrypted; docs/envelope_crypto.md says what each one leaks."""

    RANDOMISED = "randomised"
    DETERMINISTIC = "deterministic"
    INLINE = "inline"


@dataclass(frozen=True, slots=True)
class EncryptedColumn:
    """``table`` (with its schema) and ``column`` are the names of today, ``field`` the ones that never change.

    ``row`` are the columns whose values a value is bound to, ``tenant`` the one that says whose it is (None: the table
    is of no tenant). ``index`` is a second column and what it holds. ``generation`` is of the key of a deterministic
    column. ``type`` is what the plaintext is: ``text`` or ``bytes``.
    """

    table: str
    column: str
    field: Field
    mode: Mode = Mode.RANDOMISED
    tenant: str | None = None
    row: tuple[str, ...] = ("id",)
    index: tuple[str, BlindIndex] | None = None
    generation: int = 1
    type: str = "text"

    def __post_init__(self) -> None:
        if self.mode is Mode.DETERMINISTIC and self.index is not None:
            raise ModeRefused(f"'{self.field}' is deterministic: it needs no blind index", hint="leave 'index' out")
        if self.mode is not Mode.DETERMINISTIC and not self.row:
            raise ModeRefused(f"'{self.field}' is bound to no row", hint='row = ["id"]')
