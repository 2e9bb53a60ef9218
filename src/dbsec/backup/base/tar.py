"""Finds the files of a tar while it flows by: what PostgreSQL's server writes, and nothing of other tars.

Source: PostgreSQL, ``port/tar.c``: ustar, names of at most 99 bytes, no extended headers; sizes that octal digits do
not hold are base 256.
"""

from __future__ import annotations

from typing import Final

from dbsec.backup.base.members import Member, Type
from dbsec.backup.errors import BackupError

BLOCK: Final = 512
_TYPES: Final[dict[int, Type]] = {ord("0"): "f", 0: "f", ord("5"): "d", ord("2"): "l"}


class TarIndex:
    """Reads the headers in the pieces of one tar; a piece is a whole number of blocks, but for the last."""

    def __init__(self) -> None:
        self._next = 0

    def members_in(self, piece: memoryview, offset: int) -> list[Member]:
        """Return the members whose headers lie in a piece, which begins at ``offset``. Errors: ``BackupError``."""
        found = []
        while (at := self._next - offset) + BLOCK <= len(piece):
            header = bytes(piece[at : at + BLOCK])
            self._next += BLOCK
            if header.count(0) == BLOCK:  # the end, or what fills it up
                continue
            member = parse_header(header, self._next)
            self._next += -(-member.size // BLOCK) * BLOCK
            found.append(member)
        return found


def parse_header(header: bytes, begins: int) -> Member:
    """Read a header of 512 bytes; the file's own bytes begin at ``begins``. Errors: ``BackupError``."""
    try:
        total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        if header[257:262] != b"ustar" or total != _number(header[148:156]):
            raise ValueError("no ustar header")
        kind = _TYPES[header[156]]
        prefix, name = _text(header[345:500]), _text(header[:100])
        path = (f"{prefix}/{name}" if prefix else name).rstrip("/")
        size = _number(header[124:136]) if kind == "f" else 0
        mode, mtime = _number(header[100:108]), _number(header[136:148])
    except UnicodeDecodeError as exc:
        hint = "rename it; or --compress server, which lists no files"
        raise BackupError(f"a file's name is no UTF-8: {header[:100].rstrip(bytes(1))!r}", hint=hint) from exc
    except (ValueError, KeyError) as exc:
        raise BackupError(f"the server's tar has no header that is known at byte {begins - BLOCK}") from exc
    return Member(path or ".", kind, mode & 0o7777, size, mtime, _text(header[157:257]), begins)


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode()
