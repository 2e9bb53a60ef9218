"""PostgreSQL's names of WAL files, and where each lies in a repository.

Source: PostgreSQL, ``access/xlog_internal.h``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

from dbsec.errors import UsageError
from dbsec.pg.lsn import Lsn

WAL = "wal/"
HISTORY = "wal/history/"
PIECES = "wal/pieces/"
_SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")
_OTHER = re.compile(r"[0-9A-F]{8}\.history|[0-9A-F]{24}\.partial|[0-9A-F]{24}\.[0-9A-F]{8}\.backup")


@total_ordering
@dataclass(frozen=True, slots=True)
class Segment:
    """A WAL segment: its timeline, and its number counted in segments from LSN 0/0."""

    timeline: int
    number: int
    segment_bytes: int

    @classmethod
    def parse(cls, name: str, segment_bytes: int) -> Segment:
        """Read 24 hex digits. Errors: ``ValueError``."""
        found = _SEGMENT.fullmatch(name)
        if found is None:
            raise ValueError(f"'{name[:80]}' is no name of a WAL segment")
        timeline, log, part = (int(digits, 16) for digits in found.groups())
        per_log = (1 << 32) // segment_bytes
        if part >= per_log or not timeline:
            raise ValueError(f"'{name}' is no segment of {segment_bytes} bytes")
        return cls(timeline, log * per_log + part, segment_bytes)

    @classmethod
    def at(cls, timeline: int, lsn: Lsn, segment_bytes: int) -> Segment:
        """Return the segment that holds the byte at an LSN."""
        return cls(timeline, lsn.value // segment_bytes, segment_bytes)

    @property
    def name(self) -> str:
        per_log = (1 << 32) // self.segment_bytes
        return f"{self.timeline:08X}{self.number // per_log:08X}{self.number % per_log:08X}"

    @property
    def start(self) -> Lsn:
        return Lsn(self.number * self.segment_bytes)

    @property
    def end(self) -> Lsn:
        """The first LSN after it."""
        return Lsn((self.number + 1) * self.segment_bytes)

    @property
    def next(self) -> Segment:
        return Segment(self.timeline, self.number + 1, self.segment_bytes)

    def __lt__(self, other: Segment) -> bool:
        return (self.timeline, self.number) < (other.timeline, other.number)

    def __str__(self) -> str:
        return self.name


def object_name(file_name: str) -> str:
    """Return where a file that PostgreSQL archives lies. Errors: ``UsageError`` for what is no WAL file."""
    if _SEGMENT.fullmatch(file_name):
        return f"{WAL}{file_name[:8]}/{file_name[8:16]}/{file_name}"
    if _OTHER.fullmatch(file_name):
        return f"{HISTORY}{file_name}"
    raise UsageError(f"'{file_name[:80]}' is no name of a WAL file")


def segment_of(object_name: str, segment_bytes: int) -> Segment | None:
    """Return the segment that an object of ``wal/`` holds whole; None for any other object."""
    last = object_name.rpartition("/")[2]
    if object_name != f"{WAL}{last[:8]}/{last[8:16]}/{last}":
        return None
    try:
        return Segment.parse(last, segment_bytes)
    except ValueError:
        return None


def timeline_prefix(timeline: int) -> str:
    """Return what the names of a timeline's segments begin with."""
    return f"{WAL}{timeline:08X}/"


def piece_name(segment: Segment, start: int, end: int) -> str:
    """Return where the bytes ``start`` to ``end`` (offsets) of a segment lie before it is full."""
    return f"{PIECES}{segment.timeline:08X}/{segment.name}/{start:08X}-{end:08X}"
