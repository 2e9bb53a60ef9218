"""What is to be deleted from a repository, and why the rest stays: looked at, and nothing changed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from dbsec.backup import catalog
from dbsec.backup.base import overview
from dbsec.backup.base.overview import Entry, State
from dbsec.backup.errors import StillNeeded
from dbsec.backup.key_notes import shredded
from dbsec.backup.key_records import epoch_name, period_of
from dbsec.backup.repository import Repository, read_marker
from dbsec.backup.retention import Retained, Span, retained
from dbsec.backup.settings import RetentionSettings
from dbsec.backup.wal import pieces
from dbsec.backup.wal.frontier import histories, timelines
from dbsec.backup.wal.names import HISTORY, PIECES, WAL, Segment, segment_of
from dbsec.store import ObjectInfo

TOMBS: Final = "notes/expired/"
IDLE: Final = timedelta(hours=24)  # what was begun and has got nothing for so long is nobody's work any more
_AROUND: Final = timedelta(hours=1)
_OWNER: Final = re.compile(r"([0-9A-F]{24})[./]")


@dataclass(frozen=True, slots=True)
class Plan:
    """What would go. ``retained`` judges the finished backups; sizes are as the store lists them.

    ``leftovers`` are ids without a description: begun and given up, or half deleted; ``ended`` those of a shredded
    month; ``taking`` are begun and may go on: no WAL that is as young as they are goes.
    """

    retained: Retained
    segment_bytes: int
    leftovers: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()
    taking: tuple[str, ...] = ()
    objects: int = 0
    stored_bytes: int = 0
    wal: int = 0
    wal_bytes: int = 0
    pieces: int = 0
    locked: tuple[Span, ...] = field(default=())

    @property
    def empty(self) -> bool:
        return not (self.retained.expire or self.leftovers or self.ended or self.wal or self.pieces)

    def wants(self, segment: Segment) -> bool:
        """Tell whether a segment stays."""
        return self.retained.wants(segment) or any(span.holds(segment) for span in self.locked)


def plan(repository: Repository, settings: RetentionSettings, *, promised: timedelta, now: datetime) -> Plan:
    """Look at backups and WAL. ``promised`` is the recovery window of ``[objectives]``.

    Errors: ``StillNeeded`` where a description does not open, for what it needs is not known; those of the store.
    """
    entries = overview.entries(repository)
    ended = _ended(repository, [one for one in entries if one.state is State.UNREADABLE])
    tombs = {entry.name.removeprefix(TOMBS) for entry in repository.list(TOMBS)}
    begun = [one for one in entries if one.state is State.UNFINISHED]
    left = tuple(one.id for one in begun if one.id in tombs or _idle(one, now))
    taking = tuple(one.id for one in begun if one.id not in left)
    judged = retained(
        (one.backup for one in entries if one.backup is not None),
        settings,
        now=now,
        promised=promised,
        histories=histories(repository),
        timeline=max(timelines(repository), default=0),
        building=_since(taking),
    )
    made = Plan(judged, read_marker(repository.store).segment_bytes, left, ended, taking)
    return _measured(repository, made)


def unwanted_wal(repository: Repository, plan: Plan) -> Iterator[ObjectInfo]:
    """Yield WAL, oldest first, that nothing needs which stays; each ``.history`` stays."""
    youngest = _since(plan.taking)
    for entry in repository.list(WAL):
        segment = _owner(entry.name, plan.segment_bytes)
        if segment is not None and not plan.wants(segment) and (youngest is None or entry.modified < youngest):
            yield entry


def unwanted_pieces(repository: Repository, plan: Plan) -> Iterator[str]:
    """Yield the pieces whose segments are there whole and stay; the others go with their segments."""
    return (piece.name for piece in pieces.superseded(repository) if plan.wants(piece.segment))


def _measured(repository: Repository, plan: Plan) -> Plan:
    doomed = [*(one.id for one in plan.retained.expire), *plan.leftovers, *plan.ended]
    objects = stored = wal = wal_bytes = 0
    for backup in doomed:
        for entry in repository.list(f"{catalog.BASE}{backup}/"):
            objects, stored = objects + 1, stored + entry.size
    for entry in unwanted_wal(repository, plan):
        wal, wal_bytes = wal + 1, wal_bytes + entry.size
    superseded = sum(1 for _ in unwanted_pieces(repository, plan))
    return replace(plan, objects=objects, stored_bytes=stored, wal=wal, wal_bytes=wal_bytes, pieces=superseded)


def _ended(repository: Repository, unreadable: list[Entry]) -> tuple[str, ...]:
    """Return the ids whose month was shredded on purpose; any other that does not open stops everything."""
    gone = shredded(repository.store)
    for one in unreadable:
        epoch = repository.header(catalog.description_name(one.id)).epoch
        if period_of(epoch_name(epoch)) not in gone:
            raise StillNeeded(
                f"backup '{one.id}' cannot be read, so nobody knows what it needs: {one.why}",
                hint="dbsec backup verify; nothing is deleted until it opens again, or is removed by hand",
            )
    return tuple(one.id for one in unreadable)


def _idle(entry: Entry, now: datetime) -> bool:
    return entry.newest is not None and now - entry.newest > IDLE


def _since(taking: Sequence[str]) -> datetime | None:
    """Return since when something is being taken, by the clock of whoever takes it, with what clocks may differ."""
    try:
        begun = [datetime.strptime(f"{one[:15]}+0000", "%Y%m%dT%H%M%S%z") for one in taking]
        return min(begun) - _AROUND if begun else None
    except (ValueError, OverflowError):  # an id that nobody of ours has given
        return datetime.min.replace(tzinfo=UTC)


def _owner(name: str, segment_bytes: int) -> Segment | None:
    """Return the segment that an object below ``wal/`` belongs to; None for a ``.history`` and what is not ours."""
    try:
        if name.startswith(HISTORY):
            found = _OWNER.match(name.removeprefix(HISTORY))
        elif name.startswith(PIECES):
            found = _OWNER.match(name.removeprefix(PIECES)[9:])
        else:
            return segment_of(name, segment_bytes)
        return Segment.parse(found[1], segment_bytes) if found else None
    except ValueError:
        return None
