"""Which backups and which WAL stay: a pure judgement of what there is; nothing is asked and nothing is deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from dbsec.backup.catalog import Backup
from dbsec.backup.restoring.coverage import lies_on, path_to
from dbsec.backup.settings import RetentionSettings
from dbsec.backup.wal.names import Segment
from dbsec.pg.lsn import Lsn

Histories = Mapping[int, Sequence[tuple[int, Lsn]]]
_PERIODS: Final[dict[str, Callable[[datetime], str]]] = {
    "daily": lambda at: f"{at:%Y-%m-%d}",
    "weekly": lambda at: f"{at:%G-W%V}",
    "monthly": lambda at: f"{at:%Y-%m}",
    "yearly": lambda at: f"{at:%Y}",
}
NEWEST: Final = "the newest"
BEFORE_WINDOW: Final = "the recovery window begins on it"
BEING_BUILT_ON: Final = "what is being taken now may build on it"


@dataclass(frozen=True, slots=True)
class Span:
    """WAL of a timeline that stays: whatever lies in ``start`` to ``end``; timeline 0 and no end are all from there."""

    timeline: int
    start: Lsn
    end: Lsn | None

    def holds(self, segment: Segment) -> bool:
        if self.timeline and segment.timeline != self.timeline:
            return False
        return segment.end > self.start and (self.end is None or segment.start <= self.end)


@dataclass(frozen=True, slots=True)
class Retained:
    """``keep``: id -> why, and ``expire``: those to delete, each before what it builds on.

    ``wal`` are the spans that stay; ``since`` is where the continuous one begins, None where all WAL stays.
    """

    keep: Mapping[str, tuple[str, ...]]
    expire: tuple[Backup, ...]
    wal: tuple[Span, ...]
    since: Lsn | None

    def wants(self, segment: Segment) -> bool:
        """Tell whether a segment stays."""
        return self.since is None or any(span.holds(segment) for span in self.wal)


def retained(
    found: Iterable[Backup],
    settings: RetentionSettings,
    *,
    now: datetime,
    promised: timedelta,
    histories: Histories,
    timeline: int = 0,
    building: datetime | None = None,
) -> Retained:
    """Judge every finished backup. ``promised`` is the recovery window of ``[objectives]``.

    ``timeline`` is the newest of which there is WAL; only backups on the way to it carry the recovery window. A backup
    stays with all that it builds on; one whose chain is broken carries nothing. Without any on that way all WAL stays.
    ``building``: since when something is being taken, which may build on any backup that was the newest since then.
    """
    chains = _Chains(found)
    newest = max((timeline, *histories, *(one.timeline for one in chains.backups)), default=1)
    path = path_to(newest, histories)
    on_path = [one for one in chains.whole if lies_on(one, path)]
    begins = now - max(promised, settings.window or timedelta())
    reasons: dict[str, list[str]] = {}
    for backup, why in _wanted(chains, on_path, settings, now, begins, building):
        for one in chains.of(backup):
            reasons.setdefault(one.id, []).append(why if one is backup else f"'{backup.id}' builds on it")
    keep = {one.id: tuple(dict.fromkeys(reasons[one.id])) for one in chains.backups if one.id in reasons}
    since = _continuous(on_path, begins)
    spans = [Span(one.timeline, one.start, one.stop) for one in chains.backups if one.id in keep]
    if since is not None:
        spans.append(Span(0, since, None))
    doomed = [one for one in chains.backups if one.id not in keep]
    doomed.sort(key=lambda one: (len(chains.of(one)), one.id), reverse=True)
    return Retained(keep, tuple(doomed), tuple(spans), since)


class _Chains:
    """Backups by age, and what each builds on."""

    def __init__(self, found: Iterable[Backup]) -> None:
        self.backups = sorted(found, key=lambda one: (one.stopped_at, one.id))
        self._by_id = {one.id: one for one in self.backups}
        self.whole = [one for one in self.backups if not self.of(one)[-1].parent]

    def of(self, backup: Backup) -> list[Backup]:
        """Return a backup and what it builds on, as far as that is there."""
        found = [backup]
        while (parent := self._by_id.get(found[-1].parent)) is not None and parent not in found:
            found.append(parent)
        return found


def _wanted(
    chains: _Chains,
    on_path: Sequence[Backup],
    settings: RetentionSettings,
    now: datetime,
    begins: datetime,
    building: datetime | None,
) -> Iterator[tuple[Backup, str]]:
    for newest in (*chains.whole[-1:], *on_path[-1:]):
        yield newest, NEWEST
    fulls = [one for one in chains.whole if not one.parent]
    counted = {one.id for one in fulls[-settings.count :]}
    for one in chains.backups:
        if chains.of(one)[-1].id in counted:
            yield one, f"of the last {settings.count} full ones"
        if settings.age is not None and now - one.stopped_at <= settings.age:
            yield one, "younger than the age that is kept"
        if one.stopped_at >= begins:
            yield one, "within the recovery window"
        if building is not None and one.stopped_at >= building:
            yield one, BEING_BUILT_ON
    if building is not None and (before := _anchor(chains.whole, building)):
        yield before, BEING_BUILT_ON
    if anchor := _anchor(on_path, begins):
        yield anchor, BEFORE_WINDOW
    for name, period_of in _PERIODS.items():
        last = {period_of(one.stopped_at): one for one in fulls}
        for period in sorted(last, reverse=True)[: getattr(settings, name)]:
            yield last[period], f"{name}: the last of {period}"


def _anchor(on_path: Sequence[Backup], begins: datetime) -> Backup | None:
    """Return the backup from which the first moment of the recovery window is reached."""
    return next((one for one in reversed(on_path) if one.stopped_at <= begins), None)


def _continuous(on_path: Sequence[Backup], begins: datetime) -> Lsn | None:
    """Return from where on all WAL stays: a later backup may have begun before an earlier one had ended."""
    anchor = _anchor(on_path, begins)
    carrying = [one for one in on_path if one.stopped_at >= begins or one is anchor]
    return min((one.start for one in carrying), default=None)
