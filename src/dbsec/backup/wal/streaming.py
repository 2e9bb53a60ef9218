"""The messages of a stream of WAL, and the bytes of the segment that is being received.

Source: PostgreSQL, "Streaming Replication Protocol": XLogData, Primary keepalive, Standby status update.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from dbsec.backup.errors import BackupError
from dbsec.backup.wal.names import Segment
from dbsec.pg.lsn import Lsn

_DATA: Final = struct.Struct(">cQQQ")
_KEEPALIVE: Final = struct.Struct(">cQQ?")
_STATUS: Final = struct.Struct(">cQQQQ?")
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


class BrokenStream(BackupError):
    """A stream that does not go on where it was."""


@dataclass(frozen=True, slots=True)
class Wal:
    """Bytes of WAL from ``start`` on."""

    start: Lsn
    data: memoryview


@dataclass(frozen=True, slots=True)
class Keepalive:
    """A word of the server; ``asks``: it wants an answer at once, or it will take us for dead."""

    asks: bool


def parse(message: memoryview) -> Wal | Keepalive:
    """Read a message. Errors: ``BrokenStream``."""
    kind = bytes(message[:1])
    if kind == b"w" and len(message) >= _DATA.size:
        _, start, _, _ = _DATA.unpack_from(message)
        return Wal(Lsn(start), message[_DATA.size :])
    if kind == b"k" and len(message) == _KEEPALIVE.size:
        *_, asks = _KEEPALIVE.unpack(message)
        return Keepalive(asks)
    raise BrokenStream(f"the server streams a message {kind!r} of {len(message)} bytes that is none of WAL")


def status(written: Lsn, flushed: Lsn, now: datetime) -> bytes:
    """Write what was received, and what the store has acknowledged: from there on the server may forget.

    Nothing is said of replaying: nobody replays here.
    """
    return _STATUS.pack(b"r", written.value, flushed.value, 0, int((now - _EPOCH).total_seconds() * 1e6), False)


class Filling:
    """The segment that is being received, from its first byte; ``sealed`` of its bytes are in the store already."""

    def __init__(self, segment: Segment, *, sealed: int = 0) -> None:
        self.segment = segment
        self.sealed = sealed
        self._raw = bytearray()

    @property
    def position(self) -> Lsn:
        """The LSN of the next byte."""
        return Lsn(self.segment.start.value + len(self._raw))

    @property
    def received(self) -> int:
        """How many of its bytes have arrived."""
        return len(self._raw)

    @property
    def full(self) -> bool:
        return len(self._raw) == self.segment.segment_bytes

    @property
    def unsealed(self) -> int:
        return max(0, len(self._raw) - self.sealed)

    def add(self, wal: Wal) -> memoryview:
        """Take bytes up to the segment's end, and return those after it. Errors: ``BrokenStream``."""
        if wal.start != self.position:
            raise BrokenStream(f"WAL at {self.position} was to follow, and the server sent {wal.start}")
        room = self.segment.segment_bytes - len(self._raw)
        self._raw += wal.data[:room]
        return wal.data[room:]

    def between(self, start: int, end: int) -> bytes:
        """Return some of the bytes."""
        with memoryview(self._raw) as raw:
            return bytes(raw[start:end])

    def whole(self) -> bytes:
        """Return the segment."""
        return bytes(self._raw)
