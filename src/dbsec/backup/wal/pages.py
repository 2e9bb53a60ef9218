"""What a WAL segment says of itself in its first page: whose it is, and which one.

Source: PostgreSQL, ``access/xlog_internal.h``, XLogLongPageHeaderData.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dbsec.backup.errors import BackupError, WrongCluster
from dbsec.backup.wal.names import Segment
from dbsec.pg.lsn import Lsn

# magic, info, timeline, page address, bytes left of a record, padding, system identifier, segment size
_FIELDS = "HHIQI4xQI"
_MAGIC_FAMILY = 0xD100  # D110 is PostgreSQL 15, D118 is 18
_LONG = 0x0002


class WrongSegment(BackupError):
    """A file that does not hold what its name says: another segment, or none at all."""


@dataclass(frozen=True, slots=True)
class FirstPage:
    """``timeline`` is that of the page: lower than the file's where the timeline was left within this segment."""

    timeline: int
    start: Lsn
    system: int
    segment_bytes: int


def first_page(raw: bytes) -> FirstPage | None:
    """Read the header of a segment's first page, of either byte order; None where there is none."""
    for order in "<>":
        if len(raw) < struct.calcsize(order + _FIELDS):
            return None
        magic, info, timeline, start, _, system, size = struct.unpack_from(order + _FIELDS, raw)
        if magic & 0xFF00 == _MAGIC_FAMILY and info & _LONG:
            return FirstPage(timeline, Lsn(start), system, size)
    return None


def check_segment(name: str, raw: bytes, *, system: int, segment_bytes: int) -> None:
    """Refuse bytes that are not those of the segment (or of its ``.partial``) of this name and cluster.

    A segment may begin on the timeline before its own: the first of a timeline is copied up to where it begins.
    Errors: ``WrongCluster``, ``WrongSegment``.
    """
    page = first_page(raw)
    if page is None:
        raise WrongSegment(f"'{name}' does not begin as a WAL segment does", hint="look at it with pg_waldump")
    if page.system != system:
        raise WrongCluster(
            f"'{name}' is of the cluster {page.system}, and the repository is of {system}",
            hint="give each cluster a prefix of its own",
        )
    if page.segment_bytes != segment_bytes or len(raw) != segment_bytes:
        found = f"{len(raw)} bytes, and says {page.segment_bytes}"
        raise WrongSegment(f"'{name}' has {found}: segments of this cluster have {segment_bytes}")
    try:
        segment = Segment.parse(name[:24], segment_bytes)
    except ValueError as exc:
        raise WrongSegment(str(exc)) from exc
    if page.start != segment.start or not 1 <= page.timeline <= segment.timeline:
        raise WrongSegment(f"'{name}' holds the segment at {page.start} of timeline {page.timeline}")
