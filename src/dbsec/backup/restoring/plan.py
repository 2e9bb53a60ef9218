"""Decides from what a target is restored, and refuses before anything is written what could not end there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

from dbsec.backup import catalog
from dbsec.backup.catalog import Backup, Layout
from dbsec.backup.errors import NotRecoverable
from dbsec.backup.repository import Repository
from dbsec.backup.restoring import epochs
from dbsec.backup.restoring.coverage import path_to
from dbsec.backup.restoring.rates import Rates
from dbsec.backup.restoring.target import Kind, Target
from dbsec.backup.restoring.window import Reachable, Window, window
from dbsec.backup.wal.frontier import histories
from dbsec.clock import rfc3339
from dbsec.pg.lsn import Lsn

_GRAIN = timedelta(seconds=1)  # S3 tells the age of an object in whole seconds
_OTHER_BASE = "--backup ID of an older one, if it lies before"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a restore does. ``chain`` begins with the full backup; ``wal_end`` is how far WAL is known to lead.

    ``plain_bytes`` are written, ``stored_bytes`` read, ``wal_bytes`` fetched by the server; ``keys`` are epochs whose
    keys were opened; ``seconds`` is estimated without the replay of WAL, None where nothing was measured yet.
    """

    target: Target
    chain: tuple[Backup, ...]
    timeline: int
    wal_start: Lsn
    wal_end: Lsn
    wal_bytes: int
    plain_bytes: int
    stored_bytes: int
    keys: int
    seconds: float | None
    notes: tuple[str, ...]

    @property
    def backup(self) -> Backup:
        """The backup from which the server starts: the last of the chain."""
        return self.chain[-1]

    @property
    def layout(self) -> Layout:
        return self.backup.layout

    @property
    def space_bytes(self) -> int:
        """Room that a restore needs: a chain lies beside what is combined from it."""
        return self.plain_bytes * (1 if len(self.chain) == 1 else 2)


def plan(
    repository: Repository, target: Target, *, backup: str = "", rates: Rates | None = None, keys: bool = True
) -> Plan:
    """Plan a restore: the newest base backup before the target, the WAL behind it, the keys of both.

    ``keys`` False does not ask for keys of WAL. Errors: ``NotRecoverable`` with what can be reached;
    ``KeyUnavailable``; ``IncompleteBackup``; ``Tampered``; those of the store.
    """
    reach = window(repository, timeline=target.timeline)
    chosen = _chosen(reach, target, backup)
    _check(reach, chosen, target)
    chain = tuple(catalog.chain(repository, chosen.backup))
    end = _end(chosen, target)
    asked = epochs.of_backups(repository, chain)
    if keys:
        asked |= _epochs_of_wal(repository, chosen, reach.timeline, end)
    plain_bytes = sum(one.plain_bytes for one in chain)
    return Plan(
        target=target,
        chain=chain,
        timeline=reach.timeline,
        wal_start=chosen.backup.start,
        wal_end=end,
        wal_bytes=max(end - chosen.backup.start, 0),
        plain_bytes=plain_bytes,
        stored_bytes=sum(one.stored_bytes for one in chain),
        keys=epochs.open_all(repository, asked),
        seconds=rates.seconds(chosen.backup.layout, plain_bytes) if rates else None,
        notes=tuple(_notes(reach, chosen, target, backup)),
    )


def _chosen(reach: Window, target: Target, backup: str) -> Reachable:
    if backup:
        return _named(reach, backup)
    usable = [one for one in reach.reachable if one.consistent]
    if target.kind is Kind.TIME:
        usable = [one for one in usable if one.backup.stopped_at <= target.moment]
    elif target.kind is Kind.LSN:
        usable = [one for one in usable if one.backup.stop <= target.lsn]
    if not usable:
        _refuse(reach, f"no backup from which {target} can be reached was finished before it")
    return usable[-1]


def _named(reach: Window, backup: str) -> Reachable:
    for one in reach.reachable:
        if one.backup.id == backup:
            return one
    if backup in reach.unfinished:
        raise NotRecoverable(f"backup '{backup}' was never finished", hint="dbsec backup list")
    if backup in reach.doubtful:
        raise NotRecoverable(f"backup '{backup}' cannot be used: {reach.doubtful[backup]}", hint="dbsec backup verify")
    for other in reach.apart:
        if other.id == backup:
            raise NotRecoverable(
                f"backup '{backup}' is of timeline {other.timeline}, which does not lead to timeline {reach.timeline}",
                hint=f"--timeline {other.timeline}",
            )
    raise NotRecoverable(f"there is no backup '{backup}'", hint="dbsec backup list")


def _check(reach: Window, chosen: Reachable, target: Target) -> None:
    """Refuse a target that the chosen backup and its WAL do not reach."""
    backup, cover = chosen.backup, chosen.cover
    if not chosen.consistent:
        _refuse(
            reach, f"the WAL of backup '{backup.id}' ends at {cover.end}, and it is consistent at {backup.stop_lsn}"
        )
    hole = f"WAL is missing from {cover.hole[0]} to {cover.hole[1]}" if cover.hole else ""
    if target.kind is Kind.LSN:
        if target.lsn < backup.stop:
            _refuse(reach, f"{target} lies before the end of backup '{backup.id}', {backup.stop_lsn}")
        if target.lsn >= cover.end:
            _refuse(reach, f"{target} lies behind {hole or 'the end of the WAL'}, {cover.end}")
    elif target.kind is Kind.TIME:
        if target.moment < backup.stopped_at:
            _refuse(reach, f"{target} lies before the end of backup '{backup.id}', {backup.stopped}")
        if cover.newest is None or target.moment >= cover.newest + _GRAIN:
            last = f"the last WAL was stored at {rfc3339(cover.newest)}" if cover.newest else "there is no WAL"
            _refuse(reach, f"{target} is not reached: {hole or last}")
    elif hole and target.kind is not Kind.IMMEDIATE:
        # a server takes what comes before a hole for all there is, or searches its target behind it
        _refuse(reach, f"{target} is not reached: {hole}", hint=f"--lsn or --time before {cover.end}")


def _refuse(reach: Window, why: str, *, hint: str = "") -> NoReturn:
    begun = f"; {len(reach.unfinished)} were begun and never finished" if reach.unfinished else ""
    nothing = "" if reach.reachable else f"; there is no finished backup for timeline {reach.timeline}{begun}"
    doubtful = "".join(f"; backup '{one}' is left out: {doubt}" for one, doubt in reach.doubtful.items())
    raise NotRecoverable(f"{why}{nothing}{doubtful}; {reach}", hint=hint or "dbsec backup list")


def _end(chosen: Reachable, target: Target) -> Lsn:
    if target.kind is Kind.LSN:
        return target.lsn
    return chosen.backup.stop if target.kind is Kind.IMMEDIATE else chosen.cover.end


def _epochs_of_wal(repository: Repository, chosen: Reachable, timeline: int, end: Lsn) -> set[str]:
    found: set[str] = set()
    known = histories(repository)
    for leg in path_to(timeline, known):
        start = max(leg.start, chosen.backup.start)
        last = end if leg.end is None else min(leg.end, end)
        if start < last:
            found |= epochs.of_wal(repository, leg.timeline, start, last, chosen.backup.segment_bytes)
    return found


def _notes(reach: Window, chosen: Reachable, target: Target, backup: str) -> list[str]:
    notes = []
    if target.kind in (Kind.XID, Kind.NAME) and not backup:
        notes.append(
            f"where '{target.value}' is in the WAL is not known before it is read: the newest backup was chosen, and"
            f" the server ends with an error, not short, if it lies before that: {_OTHER_BASE}"
        )
    if target.kind is Kind.TIME:
        notes.append(
            "the server stops at the first commit after that time; without one it ends with an error: --latest"
        )
    for one, why in reach.doubtful.items():
        notes.append(f"backup '{one}' is left out: {why}")
    newer = [one for one in reach.unfinished if one > chosen.backup.id]
    if newer:
        notes.append(f"{len(newer)} newer backups were begun and not finished: they are none")
    if not chosen.backup.page_checksums:
        notes.append("the pages of this backup were not verified when it was taken: page checksums were off")
    if chosen.backup.source == "standby":
        notes.append("this backup was taken from a standby")
    return notes
