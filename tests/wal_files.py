"""WAL files as PostgreSQL writes them, as far as their first page: the rest is what a test wants."""

from __future__ import annotations

import struct

from tests.backup_bed import SYSTEM

from dbsec.backup.wal.names import Segment

SMALL = 1 << 20  # the smallest segment that PostgreSQL knows
MAGIC = 0xD116


def segment_name(number: int, timeline: int = 1, segment_bytes: int = SMALL) -> str:
    return Segment(timeline, number, segment_bytes).name


def segment_bytes_of(
    name: str, fill: bytes = b"wal ", *, system: int = SYSTEM, size: int = SMALL, timeline: int = 0, order: str = "<"
) -> bytes:
    """Return the bytes of a segment; ``timeline`` is what the first page says, where it is another than the name's."""
    segment = Segment.parse(name[:24], size)
    told = (MAGIC, 2, timeline or segment.timeline, segment.start.value, 0, system, size)
    head = struct.pack(f"{order}HHIQI4xQI", *told) + struct.pack(f"{order}I", 8192)
    return (head + name.encode() + fill * (size // len(fill)))[:size]
