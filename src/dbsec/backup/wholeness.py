"""Judges a repository by its names and descriptions: whole backups and chains, no hole in WAL, the promised window."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from dbsec.backup import catalog
from dbsec.backup.base import awaiting, overview
from dbsec.backup.base.overview import Entry, State
from dbsec.backup.catalog import Backup
from dbsec.backup.expiry_plan import IDLE, TOMBS
from dbsec.backup.key_notes import shredded
from dbsec.backup.key_records import EPOCHS, epoch_name, period_of
from dbsec.backup.repository import Repository, read_marker
from dbsec.backup.restoring.coverage import Leg, Wal, lies_on, path_to
from dbsec.backup.retention import retained
from dbsec.backup.settings import RetentionSettings
from dbsec.backup.wal.frontier import histories, reaches, timelines
from dbsec.clock import rfc3339
from dbsec.findings import Finding, Severity
from dbsec.pg.lsn import Lsn

SILENT_FOR = timedelta(hours=24)
_EXPIRE = "dbsec backup expire --apply"


@dataclass(frozen=True, slots=True)
class Doubts:
    """What is wrong, what cannot be told, and what is only to be known."""

    findings: tuple[Finding, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


def finding(code: int, name: str, target: str, message: str, fix: str = "", *, warning: bool = False) -> Finding:
    """Make a finding about backups; what others may have named is told printably."""
    severity = Severity.WARNING if warning else Severity.ERROR
    return Finding(f"BAK{code}", name, severity, _printable(target), _printable(message), fix)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else f"<{ord(char):x}>" for char in text)


@dataclass(frozen=True, slots=True)
class _Way:
    """Finished backups, and the way through timelines to the newest."""

    backups: Mapping[str, Backup]
    histories: Mapping[int, Sequence[tuple[int, Lsn]]]
    newest: int

    @property
    def path(self) -> list[Leg]:
        return path_to(self.newest, self.histories)

    def whole(self) -> list[Backup]:
        """Return the backups on the way whose chain is there."""
        path = self.path
        found = (one for one in self.backups.values() if overview.depth(one, self.backups) is not None)
        return [one for one in found if lies_on(one, path)]


def judge(
    repository: Repository,
    names: Mapping[str, Collection[str]],
    settings: RetentionSettings,
    *,
    promised: timedelta,
    silent_for: timedelta = SILENT_FOR,
    now: datetime,
) -> Doubts:
    """Judge what was listed: ``names`` are the objects of each id below ``base/``.

    WAL is judged by its names: whether it opens is another question. Errors: those of the store; ``KeyUnavailable``
    where no KMS answers; ``Tampered`` for a history.
    """
    entries = overview.entries(repository)
    known = {one.id: one.backup for one in entries if one.backup is not None}
    found = histories(repository)
    newest = max((*found, *timelines(repository), *(one.timeline for one in known.values())), default=1)
    way = _Way(known, found, newest)
    tombs = {entry.name.removeprefix(TOMBS) for entry in repository.list(TOMBS)}
    said: list[Finding | str] = []
    for entry in entries:
        if entry.state is State.UNFINISHED:
            said.append(_unfinished(entry, entry.id in tombs, now))
        elif entry.backup is None:
            said.append(_unreadable(repository, entry))
        else:
            said += _backup(repository, entry.backup, names.get(entry.id, ()), known)
    said += _continuity(repository, way, settings, promised, now)
    said += _window(repository, way, promised, now)
    findings = tuple(one for one in said if isinstance(one, Finding))
    unknown = tuple(_silence(repository, way, silent_for, now)) if known else ()
    return Doubts(findings, unknown, tuple(one for one in said if isinstance(one, str)))


def _unfinished(entry: Entry, expired: bool, now: datetime) -> str:
    if expired:
        return f"backup '{entry.id}' has expired, and {entry.objects:,} objects of it are left: {_EXPIRE}"
    idle = entry.newest is not None and now - entry.newest > IDLE
    state = f"given up, as it seems: {_EXPIRE}" if idle else "being taken, or broken off a short time ago"
    return f"backup '{entry.id}' was begun and is none yet ({entry.objects:,} objects): {state}"


def _unreadable(repository: Repository, entry: Entry) -> Finding | str:
    epoch = repository.header(catalog.description_name(entry.id)).epoch
    if (period := period_of(epoch_name(epoch))) in shredded(repository.store):
        return f"backup '{entry.id}' is of the month {period}, which was shredded"
    return finding(207, "description-does-not-open", entry.id, entry.why, "dbsec backup take")


def _backup(
    repository: Repository, backup: Backup, names: Collection[str], known: Mapping[str, Backup]
) -> Iterator[Finding]:
    told = set(backup.objects())
    if missing := sorted(told - set(names)):
        text = f"backup '{backup.id}' lacks {len(missing):,} of its {len(told):,} objects, the first is '{missing[0]}'"
        yield finding(202, "object-missing", backup.id, text, "dbsec backup take")
    if stray := sorted(set(names) - told):
        text = f"backup '{backup.id}' names {len(stray):,} of these objects nowhere, the first is '{stray[0]}'"
        yield finding(203, "name-that-does-not-belong", backup.id, text, warning=True)
    if overview.depth(backup, known) is None:
        text = f"backup '{backup.id}' builds on '{backup.parent}', whose chain is not there"
        yield finding(208, "chain-broken", backup.id, text, "dbsec backup take")
    if absent := awaiting.wal_missing(repository, backup):
        text = f"backup '{backup.id}' is not consistent without '{absent[0]}' ({len(absent):,} segments are missing)"
        yield finding(205, "wal-missing", backup.id, text, f"dbsec backup wal push pg_wal/{absent[0]}")


def _continuity(
    repository: Repository, way: _Way, settings: RetentionSettings, promised: timedelta, now: datetime
) -> Iterator[Finding]:
    """Look for holes from the first backup on from which all WAL stays: what lies before was expired on purpose."""
    judged = retained(
        way.backups.values(), settings, now=now, promised=promised, histories=way.histories, timeline=way.newest
    )
    if judged.since is None:
        return
    wal = Wal(repository, since=judged.since, segment_bytes=read_marker(repository.store).segment_bytes)
    seen = set()
    for backup in way.whole():
        if backup.start < judged.since:
            continue
        hole = wal.cover(backup.start, backup.timeline, way.path).hole
        if hole is not None and hole not in seen:
            seen.add(hole)
            text = f"WAL is missing from {hole[0]} to {hole[1]}: '{backup.id}' leads no further than {hole[0]}"
            yield finding(206, "wal-hole", str(hole[0]), text, "dbsec backup take")


def _window(repository: Repository, way: _Way, promised: timedelta, now: datetime) -> Iterator[Finding | str]:
    """Tell whether the oldest moment that is promised can be reached; a young repository need not do so yet."""
    if not way.backups:
        yield finding(209, "no-backup", catalog.BASE, "there is no finished backup", "dbsec backup take")
        return
    begins, oldest = now - promised, min((one.stopped_at for one in way.whole()), default=None)
    if oldest is None:
        text = "no backup leads to the timeline on which WAL is written now"
        yield finding(210, "window-not-covered", catalog.BASE, text, "dbsec backup take")
    elif oldest > begins:
        text = f"{promised.days} days are promised, and the oldest backup reaches back to {rfc3339(oldest)}"
        if _begun(repository) > begins:
            yield f"{text}: the repository is younger than that"
        else:
            yield finding(210, "window-not-covered", catalog.BASE, text, "[objectives] recovery_window_days")


def _silence(repository: Repository, way: _Way, silent_for: timedelta, now: datetime) -> Iterator[str]:
    """Doubt WAL that has not come for long: an idle server and a dead archiver look the same from here."""
    since = max((one.start for one in way.whole()), default=Lsn(0))
    newest = max((one.newest for one in reaches(repository, timeline=way.newest, since=since)), default=None)
    if newest is None:
        yield f"there is no WAL on timeline {way.newest} since the newest backup: what came after it cannot be restored"
    elif now - newest > silent_for:
        yield f"the newest WAL came at {rfc3339(newest)}: if the server has written since then, that is not here"


def _begun(repository: Repository) -> datetime:
    """Return since when there has been something to restore, as far as is known.

    The marker alone could be written anew by whoever wants the window to look young; the name of a key is bound to it.
    """
    created = datetime.fromisoformat(read_marker(repository.store).created)
    first = next(iter(repository.list(EPOCHS)), None)
    with suppress(ValueError):
        stamp = first.name.removeprefix(EPOCHS)[:15] if first else ""
        created = min(created, datetime.strptime(f"{stamp}+0000", "%Y%m%dT%H%M%S%z"))
    return created
