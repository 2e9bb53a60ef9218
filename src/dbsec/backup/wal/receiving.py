"""One stream of WAL on one timeline: what arrives becomes pieces and segments, acknowledged once they are stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from psycopg import pq

from dbsec.backup.base.replication import Replication, rows_of
from dbsec.backup.repository import Repository
from dbsec.backup.wal import pieces, streaming
from dbsec.backup.wal.names import Segment
from dbsec.backup.wal.push import push
from dbsec.backup.wal.streaming import Filling, Keepalive
from dbsec.clock import Clock
from dbsec.pg.lsn import Lsn

_STATUS_S: Final = 10.0  # wal_sender_timeout is 60 s unless set
_TICK_S: Final = 0.5


class Stream:
    """A stream from the first byte of a segment. ``every_s``: how old what arrived may become before it is sealed."""

    def __init__(
        self, session: Replication, repository: Repository, first: Segment, *, every_s: float, clock: Clock
    ) -> None:
        self._session = session
        self._repository = repository
        self._every_s = every_s
        self._clock = clock
        self._filling, self._known = self._begun(first)
        self._oldest: float | None = None  # when the first byte arrived that is not sealed
        self._told = clock.monotonic() - _STATUS_S  # the server hears at once from where on it must keep WAL
        self.acknowledged = Lsn(first.start.value + self._filling.sealed)

    def run(self, slot: str, *, ended: Callable[[], bool], look: Callable[[Lsn], None]) -> tuple[int, Lsn] | None:
        """Receive until the timeline ends, and return the next one and where it begins; None where ``ended``, or where
        the server shuts down. ``look`` is called again and again with what is acknowledged.

        Errors: ``ConnectError``, ``BrokenStream``; those of ``push`` and ``put_piece``.
        """
        segment = self._filling.segment
        self._session.send(f"START_REPLICATION SLOT {slot} PHYSICAL {segment.start} TIMELINE {segment.timeline}")
        result = self._session.result()
        if result is not None and result.status == pq.ExecStatus.COPY_BOTH:
            while (message := self._session.message(self._wait_s())) is not None:
                if message:
                    self._take(message)
                if ended():
                    self._seal()
                    return None
                self._tend()
                look(self.acknowledged)
            self._seal()
            result = self._session.result()
            if result is not None and result.status == pq.ExecStatus.COPY_IN:
                self._session.end_copy()
                result = self._session.result()
        rows = rows_of(result) if result is not None and result.status == pq.ExecStatus.TUPLES_OK else []
        while self._session.result() is not None:
            pass
        return (int(rows[0][0] or 0), Lsn.parse(rows[0][1] or "")) if rows else None

    def _begun(self, segment: Segment) -> tuple[Filling, list[pieces.Piece]]:
        known = pieces.contiguous(pieces.of_segment(self._repository, segment))
        return Filling(segment, sealed=known[-1].end if known else 0), known

    def _wait_s(self) -> float:
        if self._oldest is None:
            return _TICK_S
        return min(_TICK_S, max(0.0, self._oldest + self._every_s - self._clock.monotonic()))

    def _take(self, message: memoryview) -> None:
        said = streaming.parse(message)
        if isinstance(said, Keepalive):
            if said.asks:
                # a server that shuts down waits until all is acknowledged
                self._seal()
                self._tell()
            return
        rest = self._filling.add(said)
        self._check_known()
        while self._filling.full:
            self._complete()
            start = self._filling.position
            rest = self._filling.add(streaming.Wal(start, rest))
        if self._filling.unsealed and self._oldest is None:
            self._oldest = self._clock.monotonic()

    def _check_known(self) -> None:
        """Compare what is in the store with what the server sends again. Errors: ``ContentConflict``."""
        while self._known and self._filling.received >= self._known[0].end:
            piece = self._known.pop(0)
            self._repository.has(piece.name, self._filling.between(piece.start, piece.end))

    def _complete(self) -> None:
        segment = self._filling.segment
        push(self._repository, segment.name, self._filling.whole(), segment_bytes=segment.segment_bytes)
        self._filling, self._known = self._begun(segment.next)
        self._done(segment.end)

    def _seal(self) -> None:
        filling = self._filling
        if not filling.unsealed:
            return
        at = filling.sealed
        pieces.put_piece(self._repository, filling.segment, at, filling.between(at, filling.received))
        filling.sealed = filling.received
        self._done(filling.position)

    def _done(self, lsn: Lsn) -> None:
        self.acknowledged, self._oldest = lsn, None
        self._tell()

    def _tell(self) -> None:
        written = max(self._filling.position, self.acknowledged)
        self._session.put(streaming.status(written, self.acknowledged, self._clock.now()))
        self._told = self._clock.monotonic()

    def _tend(self) -> None:
        now = self._clock.monotonic()
        if self._oldest is not None and now >= self._oldest + self._every_s:
            self._seal()
        elif now >= self._told + _STATUS_S:
            self._tell()
