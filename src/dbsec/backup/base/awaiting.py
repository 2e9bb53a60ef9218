"""Tells whether the WAL that makes a base backup consistent is in the repository, and waits for it."""

from __future__ import annotations

from dbsec.backup.catalog import Backup
from dbsec.backup.repository import Repository
from dbsec.backup.wal import pieces
from dbsec.backup.wal.names import Segment, object_name, segment_of, timeline_prefix
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import GaveUp
from dbsec.pg.lsn import Lsn
from dbsec.progress import Progress
from dbsec.retry import wait_until


def await_wal(
    repository: Repository, backup: Backup, *, within_s: float, progress: Progress, clock: Clock = SYSTEM
) -> bool:
    """Wait until ``wal_missing`` finds nothing; False where it still does after ``within_s``. Errors: the store's."""
    if not wal_missing(repository, backup):
        return True
    progress.step(f"waiting for WAL until {backup.stop_lsn}")
    try:
        wait_until(
            lambda: not wal_missing(repository, backup),
            within_s=within_s,
            what=f"WAL until {backup.stop_lsn}",
            every_s=0.5,
            clock=clock,
        )
    except GaveUp:
        return False
    return True


def wal_missing(repository: Repository, backup: Backup) -> list[str]:
    """Return the segments between start and end of a backup that are not there, neither whole nor in pieces."""
    first = Segment.at(backup.timeline, backup.start, backup.segment_bytes)
    last = Segment.at(backup.timeline, Lsn(max(backup.stop.value - 1, 0)), backup.segment_bytes)
    missing = set(range(first.number, last.number + 1)) - _whole(repository, first, last)
    if missing == {last.number} and _pieces_end(repository, last) >= backup.stop:
        missing.clear()
    return [Segment(backup.timeline, number, backup.segment_bytes).name for number in sorted(missing)]


def _whole(repository: Repository, first: Segment, last: Segment) -> set[int]:
    before = object_name(Segment(first.timeline, first.number - 1, first.segment_bytes).name) if first.number else ""
    found = set()
    for entry in repository.list(timeline_prefix(first.timeline), before):
        segment = segment_of(entry.name, first.segment_bytes)
        if segment is not None and segment > last:
            break
        if segment is not None:
            found.add(segment.number)
    return found


def _pieces_end(repository: Repository, segment: Segment) -> Lsn:
    usable = pieces.contiguous(pieces.of_segment(repository, segment))
    return Lsn(segment.start.value + usable[-1].end) if usable else Lsn(0)
