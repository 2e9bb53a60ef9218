"""Which names an object of a repository can have: any other was put there by somebody else."""

from __future__ import annotations

import re
from typing import Final

from dbsec.backup.wal.names import Segment

_STAMPED: Final = r"\d{8}T\d{6}Z-[0-9a-f]{8}"
_PART: Final = r"[A-Za-z0-9_][A-Za-z0-9_.@-]*"
_NAMES: Final = re.compile(
    rf"base/{_STAMPED}/(?:backup|data/\d{{8}}|manifest/\d{{4}})"
    rf"|notes/{_PART}(?:/{_PART})*"
    r"|wal/history/(?:[0-9A-F]{8}\.history|[0-9A-F]{24}\.partial|[0-9A-F]{24}\.[0-9A-F]{8}\.backup)"
)
_PIECE: Final = re.compile(r"wal/pieces/([0-9A-F]{8})/([0-9A-F]{24})/([0-9A-F]{8})-([0-9A-F]{8})")
_SEGMENT: Final = re.compile(r"wal/([0-9A-F]{8})/([0-9A-F]{8})/([0-9A-F]{24})")


def belongs(name: str, segment_bytes: int) -> bool:
    """Tell whether a name is one that the writers of a repository give: keys, marker and probes apart."""
    if found := _SEGMENT.fullmatch(name):
        return found[3].startswith(found[1] + found[2]) and _is_segment(found[3], segment_bytes)
    if found := _PIECE.fullmatch(name):
        inside = int(found[3], 16) < int(found[4], 16) <= segment_bytes
        return inside and found[2].startswith(found[1]) and _is_segment(found[2], segment_bytes)
    return _NAMES.fullmatch(name) is not None


def _is_segment(name: str, segment_bytes: int) -> bool:
    try:
        Segment.parse(name, segment_bytes)
    except ValueError:
        return False
    return True
