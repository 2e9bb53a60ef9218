"""The list of the files of one archive, as it lies in objects beside its data.

Shape: canonical JSON, a line a file, over as many objects as it takes, none of which splits a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal

from dbsec import canonical
from dbsec.backup.errors import Tampered

PAGE_BYTES: Final = 16 << 20
Type = Literal["f", "d", "l"]  # a file, a folder, a symbolic link


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a file in an object of the archive: ``object`` counts in its list, ``at`` in that object's plaintext."""

    object: int
    at: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Member:
    """One file. ``path`` is relative to the archive's folder; ``tar_offset`` is where its bytes begin (slices)."""

    path: str
    type: Type
    mode: int
    size: int = 0
    mtime: int = 0
    link: str = ""
    tar_offset: int = 0
    parts: tuple[Part, ...] = ()

    def line(self) -> bytes:
        parts = [[p.object, p.at, p.offset, p.size] for p in self.parts]
        told = [self.path, self.type, self.mode, self.size, self.mtime, self.link, self.tar_offset, parts]
        return canonical.json_bytes(told) + b"\n"


def pages(members: Iterable[Member]) -> Iterator[bytes]:
    """Yield the plaintexts of the objects that hold a list."""
    page = bytearray()
    for member in members:
        page += member.line()
        if len(page) >= PAGE_BYTES:
            yield bytes(page)
            page.clear()
    if page:
        yield bytes(page)


def parse_page(name: str, raw: bytes) -> Iterator[Member]:
    """Read one of these objects. Errors: ``Tampered``, also for a path that leads out of the folder."""
    try:
        for line in raw.splitlines():
            path, kind, mode, size, mtime, link, tar_offset, parts = json.loads(line)
            pieces = tuple(Part(*map(int, part)) for part in parts)
            yield Member(inside(name, path), kind, int(mode), int(size), int(mtime), str(link), int(tar_offset), pieces)
    except (ValueError, TypeError, RecursionError) as exc:
        raise Tampered(name, "it is no list of files") from exc


def inside(name: str, path: str) -> str:
    """Return a path that stays below the folder it is relative to. Errors: ``Tampered``."""
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise Tampered(name, f"it names the path {path[:200]!r}")
    return path
