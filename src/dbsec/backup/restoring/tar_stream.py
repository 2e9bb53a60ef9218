"""Restores an archive that the server has packed as one stream: fetched by threads, unpacked by one, written by one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import IO, Final, cast

import zstandard

from dbsec.backup.base.members import Member
from dbsec.backup.base.tar import BLOCK, parse_header
from dbsec.backup.catalog import Archive
from dbsec.backup.errors import BackupError, Tampered
from dbsec.backup.restoring.fetching import Opened, ahead, in_order
from dbsec.backup.restoring.folder import Folder

PIECE_BYTES: Final = 1 << 20
_AHEAD: Final = 16
_MOST_WINDOW_BYTES: Final = 128 << 20  # what "zstd --long" takes: no header makes us take more memory
_SPARE_BYTES: Final = 64 << 20  # the description counts what the server had read, not the tar's own blocks
_HASTEN_BYTES: Final = 8 << 20

Read = Callable[[str], Opened]


def unpack(archive: Archive, read: Read, folder: Folder, *, workers: int) -> None:
    """Write the files of one archive. ``read`` gives an object's plaintext, proven.

    Errors: ``Tampered`` for what is no tar of a server, or unpacks to more than was described; those of ``read``.
    """
    name = archive.objects[0] if archive.objects else "an archive without objects"
    most = archive.plain_bytes + archive.plain_bytes // 8 + _SPARE_BYTES
    packed = in_order(read, archive.objects, workers=workers)
    if archive.packed not in ("zstd", ""):
        raise BackupError(f"the archive is packed as '{archive.packed}', which this dbsec does not unpack")
    plain = _unzstd(name, packed, most) if archive.packed else _pieces(packed)
    write_tar(name, ahead(plain, most=_AHEAD), folder)


def write_tar(name: str, pieces: Iterator[memoryview], folder: Folder) -> None:
    """Write the files of a tar. Errors: ``Tampered`` for another tar, or one that ends within a file."""
    tar = _Tar(name, pieces)
    while (header := tar.exactly(BLOCK)) is not None:
        if header.count(0) == BLOCK:  # the end, or what fills it up
            continue
        member = _parsed(name, header, tar.at)
        if folder.take(member) and member.size:
            _write_file(tar, member, folder)


def _write_file(tar: _Tar, member: Member, folder: Folder) -> None:
    left, offset, begun = member.size, 0, 0
    with folder.writing(member.path) as stream:
        while left:
            piece = tar.some(left)
            stream.write(offset, piece)
            offset, left = offset + len(piece), left - len(piece)
            if offset - begun >= _HASTEN_BYTES:
                stream.hasten(begun, offset - begun)
                begun = offset
    if pad := -member.size % BLOCK:
        tar.exactly(pad)


def _parsed(name: str, header: bytes, at: int) -> Member:
    try:
        return parse_header(header, at)
    except BackupError as exc:
        raise Tampered(name, exc.message) from exc


class _Tar:
    """The bytes of a tar, as they are asked for."""

    def __init__(self, name: str, pieces: Iterator[memoryview]) -> None:
        self._name = name
        self._pieces = pieces
        self._piece = memoryview(b"")
        self.at = 0

    def some(self, most: int) -> memoryview:
        """Return what is at hand, at most this much. Errors: ``Tampered`` at the end."""
        if not self._piece and not self._fill():
            raise Tampered(self._name, "its tar ends within a file")
        taken, self._piece = self._piece[:most], self._piece[most:]
        self.at += len(taken)
        return taken

    def exactly(self, size: int) -> bytes | None:
        """Return this many bytes; None at the end of the tar."""
        if not self._piece and not self._fill():
            return None
        found = bytes(self.some(size))
        while len(found) < size:
            found += self.some(size - len(found))
        return found

    def _fill(self) -> bool:
        for piece in self._pieces:
            if piece:
                self._piece = piece
                return True
        return False


def _pieces(objects: Generator[Opened, None, None]) -> Generator[memoryview, None, None]:
    try:
        for opened in objects:
            for piece in opened.pieces:
                yield memoryview(piece)
    finally:
        objects.close()


def _unzstd(name: str, packed: Generator[Opened, None, None], most: int) -> Generator[memoryview, None, None]:
    """Unpack in pieces of bounded size: one MiB of input may hold gigabytes."""
    unpacker = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES)
    done = 0
    try:
        with unpacker.stream_reader(
            cast("IO[bytes]", _Source(packed)), read_size=PIECE_BYTES, read_across_frames=True
        ) as reader:
            while piece := reader.read(PIECE_BYTES):
                done += len(piece)
                if done > most:
                    raise Tampered(name, f"it unpacks to more than the {most} bytes that it may have")
                yield memoryview(piece)
    except zstandard.ZstdError as exc:
        raise Tampered(name, f"what it packs is no zstd: {exc}") from exc
    finally:
        packed.close()


class _Source:
    """The joined objects of an archive, as zstandard reads them."""

    def __init__(self, objects: Iterator[Opened]) -> None:
        self._pieces = (piece for opened in objects for piece in opened.pieces)

    def read(self, _size: int) -> bytes:
        """Return the next piece, whatever was asked for: a reader here takes what it gets."""
        return next(self._pieces, b"")
