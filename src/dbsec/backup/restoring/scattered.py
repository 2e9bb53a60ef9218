"""Restores objects that hold slices of a tar or ranges of files: in any order, by as many threads as there are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from dbsec.backup.base.members import Member, parse_page
from dbsec.backup.catalog import Archive, Layout
from dbsec.backup.errors import Tampered
from dbsec.backup.restoring.fetching import Opened, in_order
from dbsec.backup.restoring.folder import Folder

Read = Callable[[str], Opened]
_NONE: Final = "an archive without a list of files"
_HASTEN_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes of an object that go into a file."""

    path: str
    at: int
    offset: int
    size: int


def unpack(archive: Archive, layout: Layout, read: Read, folder: Folder, *, workers: int) -> None:
    """Write the files of one archive. ``read`` gives an object's plaintext, proven.

    The list of files is checked whole before the first is made. Errors: ``Tampered``; those of ``read``.
    """
    name = archive.members[0] if archive.members else _NONE
    members = [member for page in archive.members for member in parse_page(page, read(page).whole())]
    if not members:
        raise Tampered(name, "it lists no file")
    # one object alone is as long as it is; of several the first has the size of all but the last
    first = read(archive.objects[0]) if layout is Layout.SLICES and archive.objects else None
    plan = _Slices(archive, name, members, first.plain_bytes) if first is not None else _Ranges(archive, name, members)
    for member in members:
        folder.take(member)

    def restore(number: int) -> int:
        opened = first if first is not None and not number else read(archive.objects[number])
        _write(plan.pieces(number, opened.plain_bytes), opened.pieces, folder)
        return opened.plain_bytes

    total = sum(in_order(restore, range(len(archive.objects)), workers=workers))
    if layout is Layout.SLICES and total != archive.plain_bytes:
        raise Tampered(name, f"its slices hold {total} bytes, not {archive.plain_bytes}")


def _write(wanted: Sequence[_Piece], plain: Iterator[bytes], folder: Folder) -> None:
    """Write the pieces of one object, which is unpacked only once, from its beginning to its end."""
    begin, data = 0, memoryview(b"")
    for piece in sorted(wanted, key=lambda piece: piece.at):
        with folder.writing(piece.path) as stream:
            done = 0
            while done < piece.size:
                while begin + len(data) <= piece.at + done:
                    begin, data = begin + len(data), memoryview(next(plain))
                part = data[piece.at + done - begin :][: piece.size - done]
                stream.write(piece.offset + done, part)
                done += len(part)
            if piece.size >= _HASTEN_BYTES:
                stream.hasten(piece.offset, piece.size)
    for _ in plain:  # to its end, where its size is proven
        pass


class _Slices:
    """A tar in slices of ``cut`` bytes, each an object."""

    def __init__(self, archive: Archive, name: str, members: Sequence[Member], cut: int) -> None:
        self._archive = archive
        self._name = name
        self._files = sorted((one for one in members if one.type == "f" and one.size), key=lambda m: m.tar_offset)
        self._starts = [one.tar_offset for one in self._files]
        self._cut = cut
        end = 0
        for one in self._files:
            if one.tar_offset < end:
                raise Tampered(name, f"the bytes of '{one.path}' are those of another file")
            end = one.tar_offset + one.size
        if end > archive.plain_bytes:
            raise Tampered(name, "its last file ends behind the tar")

    def pieces(self, number: int, size: int) -> list[_Piece]:
        last = number == len(self._archive.objects) - 1
        if size != self._cut and not (last and size < self._cut):
            raise Tampered(self._archive.objects[number], f"it is a slice of {size} bytes, not {self._cut}")
        begin, end = number * self._cut, number * self._cut + size
        found = []
        for one in self._files[max(bisect_right(self._starts, begin) - 1, 0) :]:
            if one.tar_offset >= end:
                break
            first, behind = max(begin, one.tar_offset), min(end, one.tar_offset + one.size)
            if first < behind:
                path = str(PurePosixPath(one.path))
                found.append(_Piece(path, first - begin, first - one.tar_offset, behind - first))
        return found


class _Ranges:
    """Ranges of files, as the list names them."""

    def __init__(self, archive: Archive, name: str, members: Sequence[Member]) -> None:
        self._archive = archive
        self._pieces: list[list[_Piece]] = [[] for _ in archive.objects]
        for one in members:
            end = 0
            for part in sorted(one.parts, key=lambda part: part.offset):
                if not 0 <= part.object < len(archive.objects) or min(part.at, part.size) < 0 or part.offset != end:
                    raise Tampered(name, f"the ranges of '{one.path}' do not follow each other")
                end += part.size
                piece = _Piece(str(PurePosixPath(one.path)), part.at, part.offset, part.size)
                self._pieces[part.object].append(piece)
            if end != one.size or (one.parts and one.type != "f"):
                raise Tampered(name, f"the ranges of '{one.path}' are {end} bytes, and it has {one.size}")

    def pieces(self, number: int, size: int) -> list[_Piece]:
        if any(piece.at + piece.size > size for piece in self._pieces[number]):
            raise Tampered(self._archive.objects[number], f"it has only {size} bytes")
        return self._pieces[number]
