"""Pieces of a segment that is not full yet: which there are, which follow each other, which nobody needs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from dbsec.backup.errors import Tampered
from dbsec.backup.repository import Put, Repository, read_marker
from dbsec.backup.wal.names import PIECES, Segment, object_name, piece_name
from dbsec.store import ObjectInfo, ObjectMissing

_NAME = re.compile(rf"{PIECES}[0-9A-F]{{8}}/([0-9A-F]{{24}})/([0-9A-F]{{8}})-([0-9A-F]{{8}})")


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes ``start`` to ``end`` (offsets) of a segment."""

    name: str
    segment: Segment
    start: int
    end: int
    modified: datetime


def put_piece(repository: Repository, segment: Segment, start: int, plain: bytes) -> Put:
    """Put bytes of a segment from an offset on. Errors: those of ``Repository.put``."""
    name = piece_name(segment, start, start + len(plain))
    return repository.put(name, plain, timeline=segment.timeline)


def of_segment(repository: Repository, segment: Segment) -> list[Piece]:
    """List the pieces of a segment, by their start."""
    prefix = f"{PIECES}{segment.timeline:08X}/{segment.name}/"
    return list(_parsed(repository.list(prefix), segment.segment_bytes))


def by_segment(repository: Repository, first: Segment) -> Iterator[tuple[Segment, list[Piece]]]:
    """Yield the pieces of each segment of a timeline from ``first`` on."""
    folder = f"{PIECES}{first.timeline:08X}/"
    # a name of the first segment begins with this one, so all of its own come after it
    entries = repository.list(folder, f"{folder}{first.name}")
    for segment, found in itertools.groupby(_parsed(entries, first.segment_bytes), key=lambda piece: piece.segment):
        yield segment, list(found)


def contiguous(pieces: Iterable[Piece]) -> list[Piece]:
    """Return those that lead from the segment's start without a gap, each further than the one before.

    Two receivers cut at other offsets, so pieces may overlap.
    """
    usable: list[Piece] = []
    reached = 0
    by_start = sorted(pieces, key=lambda piece: (piece.start, -piece.end))
    for piece in by_start:
        if piece.start > reached:
            break
        if piece.end > reached:
            usable.append(piece)
            reached = piece.end
    return usable


def compose(repository: Repository, pieces: Sequence[Piece]) -> bytes:
    """Return the bytes of pieces that ``contiguous`` has chosen, proven. Errors: ``Tampered`` and those of ``get``."""
    composed = bytearray()
    for piece in pieces:
        plain = repository.get(piece.name)
        if len(plain) != piece.end - piece.start:
            raise Tampered(piece.name, f"it holds {len(plain)} bytes, not {piece.end - piece.start}")
        # where pieces overlap they are of one history: a change of it has a timeline of its own
        if plain[: len(composed) - piece.start] != composed[piece.start : piece.end]:
            raise Tampered(piece.name, "it differs from the piece before it where both hold the same bytes")
        composed[piece.start :] = plain
    return bytes(composed)


def superseded(repository: Repository) -> Iterator[Piece]:
    """Yield the pieces whose segment is there whole, so that nothing reads them: what expire may delete."""
    segment_bytes = read_marker(repository.store).segment_bytes
    parsed = _parsed(repository.list(PIECES), segment_bytes)
    for segment, found in itertools.groupby(parsed, key=lambda piece: piece.segment):
        if _is_whole(repository, segment):
            yield from found


def _is_whole(repository: Repository, segment: Segment) -> bool:
    try:
        repository.store.head(object_name(segment.name))
    except ObjectMissing:
        return False
    return True


def _parsed(entries: Iterable[ObjectInfo], segment_bytes: int) -> Iterator[Piece]:
    for entry in entries:
        found = _NAME.fullmatch(entry.name)
        if found is not None:
            start, end = int(found[2], 16), int(found[3], 16)
            with suppress(ValueError):  # no segment of this size, which nobody of ours has put there
                segment = Segment.parse(found[1], segment_bytes)
                if start < end <= segment_bytes and entry.name == piece_name(segment, start, end):
                    yield Piece(entry.name, segment, start, end, entry.modified)
