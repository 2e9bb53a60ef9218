"""Cuts the files of a folder into ranges, and reads a few of them at once into the plaintext of one object."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from dbsec.backup.base.listing_files import Found
from dbsec.backup.errors import BackupError
from dbsec.clock import SYSTEM, Clock

_TRIES: Final = 5
_PAUSE_S: Final = 0.1  # longer than the write that has torn a page


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of a file."""

    file: Found
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Read:
    """A piece as it was read: ``size`` bytes at ``at``; fewer than wanted where the file has shrunk or vanished."""

    piece: Piece
    at: int
    size: int


@dataclass(frozen=True, slots=True)
class Suspect:
    """A page that fails its checksum, also when it is read again, with the LSN that it claims."""

    path: str
    block: int
    lsn: int


def cut(files: Iterable[Found], most: int) -> Iterator[list[Piece]]:
    """Yield what goes into each object of at most ``most`` bytes: big files in ranges, small ones together.

    Files of pages come first: so their pages lie beside each other, and are checked at once.
    """
    batch: list[Piece] = []
    room = most
    for file in sorted(files, key=lambda one: one.first_block is None):
        for offset in range(0, file.size, most):
            size = min(most, file.size - offset)
            if size > room:
                yield batch
                batch, room = [], most
            batch.append(Piece(file, offset, size))
            room -= size
    if batch:
        yield batch


def read_pieces(root: Path, pieces: Sequence[Piece], buffer: memoryview) -> list[Read]:
    """Read ranges one after another into a buffer. Errors: ``BackupError`` for a file that cannot be read."""
    done, at = [], 0
    for piece in pieces:
        size = read_at(root / piece.file.path, piece.offset, buffer[at : at + piece.size])
        done.append(Read(piece, at, size))
        at += size
    return done


def read_at(path: Path, offset: int, room: memoryview) -> int:
    """Read from a place of a file what fits; 0 where it is gone: WAL tells what became of it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    try:
        done = 0
        while done < len(room) and (read := os.preadv(fd, [room[done:]], offset + done)):
            done += read
        return done
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    finally:
        os.close(fd)


def _unreadable(path: Path, exc: OSError) -> BackupError:
    return BackupError(f"cannot read '{path}': {exc.strerror}", hint="run as the account of the server")


class PageCheck:
    """Checks the pages among what was read; safe in threads. Needs numpy. Errors: ``ProgramMissing``."""

    def __init__(self, root: Path, block_bytes: int, *, clock: Clock = SYSTEM) -> None:
        from dbsec.backup.base import page_checksum

        self._maths = page_checksum
        self._root = root
        self._block_bytes = block_bytes
        self._clock = clock

    def __call__(self, done: Sequence[Read], buffer: memoryview) -> list[Suspect]:
        """Return the pages that fail; one that is good when read again takes its place in the buffer."""
        found: list[Suspect] = []
        for run in _runs(done, self._block_bytes):
            counts = [one.size // self._block_bytes for one in run]
            firsts = [self._first(one) for one in run]
            numbers = self._maths.joined(
                [self._maths.block_numbers(*pair) for pair in zip(firsts, counts, strict=True)]
            )
            start = run[0].at
            pages = buffer[start : start + len(numbers) * self._block_bytes]
            for bad in self._maths.bad_pages(pages, numbers, block_bytes=self._block_bytes):
                at = start + bad.index * self._block_bytes
                if suspect := self._again(_holder(run, at), at, buffer):
                    found.append(suspect)
        return found

    def _first(self, one: Read) -> int:
        return (one.piece.file.first_block or 0) + one.piece.offset // self._block_bytes

    def _again(self, one: Read, at: int, buffer: memoryview) -> Suspect | None:
        """Read a page again: a write that went on meanwhile has torn it, and is over soon."""
        offset = one.piece.offset + at - one.at
        block = self._first(one) + (at - one.at) // self._block_bytes
        page = memoryview(bytearray(self._block_bytes))
        lsn = 0
        for _ in range(_TRIES):
            if read_at(self._root / one.piece.file.path, offset, page) < self._block_bytes:
                return None  # truncated meanwhile
            bad = self._maths.bad_pages(page, self._maths.block_numbers(block, 1), block_bytes=self._block_bytes)
            if not bad:
                buffer[at : at + self._block_bytes] = page
                return None
            lsn = bad[0].lsn
            self._clock.sleep(_PAUSE_S)
        return Suspect(one.piece.file.path, block, lsn)


def _runs(done: Sequence[Read], block_bytes: int) -> Iterator[list[Read]]:
    """Yield what lies page by page beside each other; the half page at the end of a file that grows is none yet."""
    ragged = 0

    def run_of(one: Read) -> tuple[bool, int]:
        nonlocal ragged
        key = (one.piece.file.first_block is not None, ragged)
        ragged += one.size % block_bytes > 0
        return key

    for (paged, _), run in groupby(done, key=run_of):
        if paged and (whole := [one for one in run if one.size >= block_bytes]):
            yield whole


def _holder(run: Sequence[Read], at: int) -> Read:
    return next(one for one in run if one.at <= at < one.at + one.size)


class Pace:
    """Holds readers together to a rate; None is no limit."""

    def __init__(self, bytes_s: int | None, *, clock: Clock = SYSTEM) -> None:
        from threading import Lock

        self._bytes_s = bytes_s
        self._clock = clock
        self._lock = Lock()
        self._free_at = clock.monotonic()

    def wait_for(self, size: int) -> None:
        """Wait until as many bytes may be read."""
        if self._bytes_s is None:
            return
        with self._lock:
            now = self._clock.monotonic()
            begin = max(self._free_at, now)
            self._free_at = begin + size / self._bytes_s
        self._clock.sleep(max(0.0, begin - now))


Check = Callable[[Sequence[Read], memoryview], list[Suspect]]
