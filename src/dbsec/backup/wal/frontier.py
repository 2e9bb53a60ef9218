"""How far the WAL in a repository reaches: the newest run without a hole, per timeline, from names alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from dbsec.backup.errors import Tampered
from dbsec.backup.repository import Repository, read_marker
from dbsec.backup.wal import pieces
from dbsec.backup.wal.names import HISTORY, PIECES, WAL, Segment, object_name, segment_of, timeline_prefix
from dbsec.pg.lsn import Lsn

TIMELINE = re.compile(r"[0-9A-F]{8}")


@dataclass(frozen=True, slots=True)
class Reach:
    """WAL of one timeline: ``start`` to ``end`` without a hole, and the holes before that.

    ``newest``: when the store took the last object that counts, by the store's clock.
    """

    timeline: int
    start: Lsn
    end: Lsn
    holes: tuple[tuple[Lsn, Lsn], ...]
    newest: datetime


@dataclass(frozen=True, slots=True)
class _Span:
    start: Lsn
    end: Lsn
    whole: bool
    modified: datetime


def reaches(repository: Repository, *, timeline: int | None = None, since: Lsn | None = None) -> list[Reach]:
    """Tell how far the WAL of each timeline reaches, by timeline; ``since`` leaves out the segments before its own.

    Pieces count at the end, where they follow each other from the start of their segment: a fetch composes them there,
    and nowhere else. No body is read, and nothing but the holes is kept in memory. Errors: those of the store.
    """
    segment_bytes = read_marker(repository.store).segment_bytes
    found = timelines(repository) if timeline is None else [timeline]
    reached = (_reach(repository, number, segment_bytes, since) for number in found)
    return [reach for reach in reached if reach is not None]


def timelines(repository: Repository) -> list[int]:
    """Return the timelines of which there is a segment or a piece. A request for each: no listing of them all."""
    found = set()
    for folder in (WAL, PIECES):
        after = folder
        while (entry := next(iter(repository.list(folder, after)), None)) is not None:
            part = entry.name.removeprefix(folder).partition("/")[0]
            if part > "G":  # "wal/history/" and "wal/pieces/" come after all digits
                break
            if TIMELINE.fullmatch(part):  # a name of none of ours must not hide those after it
                found.add(int(part, 16))
            after = f"{folder}{part}0"  # "0" follows "/": the first name of the next timeline
    return sorted(found)


def histories(repository: Repository) -> dict[int, list[tuple[int, Lsn]]]:
    """Read every ``.history``: timeline -> its ancestors, oldest first, each with the LSN at which it was left.

    Errors: ``Tampered``, ``KeyUnavailable``, those of the store.
    """
    found = {}
    for entry in repository.list(HISTORY):
        stem, _, kind = entry.name.removeprefix(HISTORY).partition(".")
        if kind == "history" and TIMELINE.fullmatch(stem):
            found[int(stem, 16)] = parse_history(entry.name, repository.get(entry.name))
    return found


def parse_history(name: str, raw: bytes) -> list[tuple[int, Lsn]]:
    """Read a timeline's history: a line is parent, switch LSN and reason. Errors: ``Tampered``.

    Source: PostgreSQL, ``backend/access/transam/timeline.c``, readTimeLineHistory.
    """
    found: list[tuple[int, Lsn]] = []
    try:
        for line in raw.decode("utf-8", "replace").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                parent, at = line.split(None, 2)[:2]
                found.append((int(parent), Lsn.parse(at)))
    except ValueError:
        raise Tampered(name, "it is no history of a timeline") from None
    if [parent for parent, _ in found] != sorted({parent for parent, _ in found}):
        raise Tampered(name, "its timelines do not ascend")
    return found


def _reach(repository: Repository, timeline: int, segment_bytes: int, since: Lsn | None) -> Reach | None:
    first = Segment.at(timeline, since or Lsn(0), segment_bytes)
    run = _Run()
    for span in _wholes(repository, first):
        run.add(span)
    # pieces are listed before the segments after them are listed again: a segment that becomes full meanwhile is
    # put before the first piece of the next, so what a receiver does now is never seen as a hole
    last = first if run.start is None else Segment.at(timeline, run.end, segment_bytes)
    later = [*_partials(repository, last), *_wholes(repository, last)]
    for span in sorted(later, key=lambda span: (span.start, not span.whole)):
        run.add(span)
    return run.reach(timeline)


class _Run:
    """The newest run so far, as spans come in by their start."""

    def __init__(self) -> None:
        self.start: Lsn | None = None
        self.end = Lsn(0)
        self._tail = Lsn(0)
        self._holes: list[tuple[Lsn, Lsn]] = []
        self._newest: datetime | None = None

    def add(self, span: _Span) -> None:
        if self.start is None:
            self.start = self.end = span.start
        elif span.start > self.end:
            self._holes.append((self.end, span.start))
            self.start = self.end = span.start
        if span.whole:
            self.end = max(self.end, span.end)
        if span.end > self._tail:
            self._tail, self._newest = span.end, span.modified

    def reach(self, timeline: int) -> Reach | None:
        if self.start is None or self._newest is None:
            return None
        return Reach(timeline, self.start, self._tail, tuple(self._holes), self._newest)


def _wholes(repository: Repository, first: Segment) -> Iterator[_Span]:
    for entry in repository.list(timeline_prefix(first.timeline), _before(first)):
        segment = segment_of(entry.name, first.segment_bytes)
        if segment is not None:
            yield _Span(segment.start, segment.end, True, entry.modified)


def _partials(repository: Repository, first: Segment) -> Iterator[_Span]:
    for segment, found in pieces.by_segment(repository, first):
        usable = pieces.contiguous(found)
        if usable:
            end = Lsn(segment.start.value + usable[-1].end)
            yield _Span(segment.start, end, False, max(piece.modified for piece in usable))


def _before(first: Segment) -> str:
    """Return the name after which a listing shows this segment and the later ones."""
    if not first.number:
        return ""
    return object_name(Segment(first.timeline, first.number - 1, first.segment_bytes).name)
