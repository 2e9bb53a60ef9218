"""A position in the write-ahead log."""

from __future__ import annotations

import re
from functools import total_ordering

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


@total_ordering
class Lsn:
    """64 bits, written ``16/B374D848``; differences are bytes. Source: PostgreSQL, ``pg_lsn`` type."""

    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        if not 0 <= value < 1 << 64:
            raise ValueError(f"an LSN has 64 bits, not {value:#x}")
        self.value = value

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """Read ``X/X``. Errors: ``ValueError``."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"'{text}' is not an LSN")
        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    def __sub__(self, other: Lsn) -> int:
        return self.value - other.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lsn) and self.value == other.value

    def __lt__(self, other: Lsn) -> bool:
        return self.value < other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __str__(self) -> str:
        return f"{self.value >> 32:X}/{self.value & 0xFFFFFFFF:X}"

    __repr__ = __str__
