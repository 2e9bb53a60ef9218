"""Which WAL follows a base backup without a hole, along the timelines that lead to the one that is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from dbsec.backup.catalog import Backup
from dbsec.backup.repository import Repository
from dbsec.backup.wal.frontier import Reach, reaches
from dbsec.backup.wal.names import Segment, object_name, segment_of, timeline_prefix
from dbsec.pg.lsn import Lsn
from dbsec.store import ObjectMissing


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of the way through timelines: ``end`` None is where its WAL ends."""

    timeline: int
    start: Lsn
    end: Lsn | None


@dataclass(frozen=True, slots=True)
class Cover:
    """How far WAL leads from a base backup: to ``end``, where ``hole`` begins if there is later WAL behind one.

    ``newest`` is when the store took the last of it.
    """

    timeline: int
    end: Lsn
    hole: tuple[Lsn, Lsn] | None
    newest: datetime | None


def path_to(timeline: int, histories: Mapping[int, Sequence[tuple[int, Lsn]]]) -> list[Leg]:
    """Return the way from the first timeline to this one."""
    legs, start = [], Lsn(0)
    for parent, left in histories.get(timeline, ()):
        legs.append(Leg(parent, start, left))
        start = left
    return [*legs, Leg(timeline, start, None)]


def lies_on(backup: Backup, path: Sequence[Leg]) -> bool:
    """Tell whether a recovery from a backup can follow a path: it must be consistent before its timeline is left."""
    return any(leg.timeline == backup.timeline and (leg.end is None or backup.stop <= leg.end) for leg in path)


class Wal:
    """What the store has of WAL from ``since`` on; each timeline is listed once."""

    def __init__(self, repository: Repository, *, since: Lsn, segment_bytes: int) -> None:
        self._repository = repository
        self._since = since
        self._segment_bytes = segment_bytes
        self._reaches: dict[int, tuple[Lsn, Reach] | None] = {}

    def cover(self, start: Lsn, timeline: int, path: Sequence[Leg]) -> Cover:
        """Follow a path from a timeline and an LSN on it. Errors: those of the store."""
        legs = path[[leg.timeline for leg in path].index(timeline) :]
        at = self._floor(start)
        cover = Cover(timeline, at, None, None)
        for leg in legs:
            at = max(at, self._floor(leg.start))
            goal = None if leg.end is None else self._floor(leg.end)
            if goal is not None and goal <= at:  # its last segment is the first of the next timeline
                continue
            end, later = self._run(leg.timeline, at)
            if end > at or cover.newest is None:
                cover = Cover(leg.timeline, max(end, at), None, self._newest(leg.timeline, end))
            if goal is None:
                return cover if later is None else self._holed(cover, end, later)
            if end < goal:
                return self._holed(cover, end, goal)
            at = goal
        return cover

    def _holed(self, cover: Cover, end: Lsn, later: Lsn) -> Cover:
        return Cover(cover.timeline, cover.end, (end, later), cover.newest)

    def _run(self, timeline: int, at: Lsn) -> tuple[Lsn, Lsn | None]:
        """Return where the WAL that begins at ``at`` ends, and where later WAL begins again."""
        known = self._known(timeline)
        if known is None:
            return at, None
        first, reach = known
        if at < first:
            return at, first
        for start, end in reach.holes:
            if at < end:
                return max(start, at), end
        return max(reach.end, at), None

    def _known(self, timeline: int) -> tuple[Lsn, Reach] | None:
        if timeline not in self._reaches:
            found = reaches(self._repository, timeline=timeline, since=self._since)
            self._reaches[timeline] = (self._first(timeline, found[0]), found[0]) if found else None
        return self._reaches[timeline]

    def _first(self, timeline: int, reach: Reach) -> Lsn:
        """Return where the oldest WAL begins: a reach tells it of its newest run only."""
        first = Segment.at(timeline, self._since, self._segment_bytes)
        before = object_name(Segment(timeline, first.number - 1, self._segment_bytes).name) if first.number else ""
        for entry in self._repository.list(timeline_prefix(timeline), before):
            segment = segment_of(entry.name, self._segment_bytes)
            if segment is not None:
                return segment.start
        return reach.holes[0][0] if reach.holes else reach.start

    def _newest(self, timeline: int, end: Lsn) -> datetime | None:
        known = self._known(timeline)
        if known is None or not end.value:
            return None
        if end >= known[1].end:
            return known[1].newest
        with suppress(ObjectMissing):
            name = Segment.at(timeline, Lsn(end.value - 1), self._segment_bytes).name
            return self._repository.store.head(object_name(name)).modified
        return None

    def _floor(self, lsn: Lsn) -> Lsn:
        return Lsn(lsn.value - lsn.value % self._segment_bytes)
