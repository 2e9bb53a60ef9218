"""What it would mean to destroy the KEK of a month: which epochs, backups and WAL end, and who else holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from dbsec.backup import catalog
from dbsec.backup.catalog import Backup
from dbsec.backup.errors import Tampered
from dbsec.backup.key_notes import shredded
from dbsec.backup.key_records import EPOCHS, ESCROW, PRIMARY, KeyRecord, epoch_name, period_of, wrap_aad
from dbsec.backup.repository import Repository, read_marker
from dbsec.backup.wal.names import HISTORY, Segment
from dbsec.errors import NewerFormat
from dbsec.kms import Description, KekState, KmsRefused
from dbsec.progress import Progress, Silent
from dbsec.store import ObjectMissing

GONE = (KekState.DESTROYED, KekState.PENDING_DESTRUCTION)
_READERS = 16
_SHOWN = 5


@dataclass(slots=True)
class Plan:
    """What would end. ``keks``: what the KMS and the escrow say, None for a KEK that is not there (any more).

    ``needed`` says why the month is still wanted, ``shared`` what stands in the way of shredding at all, ``others``
    the KEKs that hold the same epochs too, by older wraps.
    """

    period: str
    epochs: tuple[str, ...] = ()
    keks: dict[str, Description | None] = field(default_factory=dict)
    objects: int = 0
    backups: list[str] = field(default_factory=list)
    segments: int = 0
    needed: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def plan(repository: Repository, period: str, *, progress: Progress | None = None) -> Plan:
    """Look at keys, backups and WAL; the header of every object is read. Errors: those of store and KMS."""
    progress = progress or Silent()
    found = Plan(period)
    records = [one for one in repository.keys.records().values() if isinstance(one, KeyRecord)]
    mine = [one for one in records if one.period == period and one.name.startswith(EPOCHS)]
    found.epochs = tuple(one.name for one in mine)
    for role, kms in repository.keys.holders().items():
        try:
            found.keks[role] = kms.describe(wrap_aad(_any_name(period), repository.system))
        except KmsRefused:
            found.keks[role] = None
    _judge_holders(found, mine, [one for one in records if one.period != period])
    progress.step("reading the header of every object")
    doomed = [name for name, epoch in _epochs(repository) if period_of(epoch_name(epoch)) == period]
    found.objects = len(doomed)
    _judge_need(found, repository, doomed)
    return found


def _any_name(period: str) -> str:
    return epoch_name(f"{period.replace('-', '')}01T000000Z-00000000")


def _judge_holders(found: Plan, mine: Iterable[KeyRecord], rest: Iterable[KeyRecord]) -> None:
    own = {told.kek for told in found.keks.values() if told is not None}
    named = {wrap.kek for one in rest for wrap in one.wraps + one.older}
    found.shared = [f"'{kek}' wraps keys of other months too: it is no KEK by month" for kek in sorted(own & named)]
    held = [wrap for one in mine for wrap in one.wraps + one.older]
    if by_recipient := sum(any(wrap.of_recipient for wrap in one.wraps) for one in mine):
        found.shared.append(f"{by_recipient} epochs are for a recipient, whose private key belongs to no month")
    missing = {PRIMARY, ESCROW} & {wrap.holder for wrap in held} - set(found.keks)
    found.shared += [f"the '{role}' holds epochs of the month and is not configured" for role in sorted(missing)]
    found.others = sorted({wrap.kek for wrap in held if not wrap.of_recipient} - own) if own else []


def _epochs(repository: Repository) -> Iterator[tuple[str, str]]:
    """Yield each object with the epoch that its header names; one that has none that is readable is left out."""

    def read(name: str) -> str:
        try:
            return repository.header(name).epoch
        except (Tampered, NewerFormat, ObjectMissing):
            return ""

    names = [entry.name for prefix in ("base/", "wal/") for entry in repository.list(prefix)]
    with ThreadPoolExecutor(_READERS, thread_name_prefix="dbsec-shred") as threads:
        yield from zip(names, threads.map(read, names), strict=True)


def _judge_need(found: Plan, repository: Repository, doomed: list[str]) -> None:
    gone = shredded(repository.store)
    ends = {name.split("/")[1] for name in doomed if name.startswith("base/")}
    kept: list[Backup] = []
    for backup in (backup for backup, whole in catalog.ids(repository).items() if whole):
        period = period_of(epoch_name(repository.header(catalog.description_name(backup)).epoch))
        if period in gone or backup in ends:
            found.backups += [backup] * (backup in ends)
            continue
        described = catalog.get_backup(repository, backup)
        if described.parent in ends:  # oldest first: a chain breaks from its first link on
            ends.add(backup)
            found.backups.append(backup)
        else:
            kept.append(described)
    found.needed = [f"backup '{backup}' cannot be restored without it" for backup in found.backups]
    segment_bytes = read_marker(repository.store).segment_bytes
    wanted = list(_wanted(doomed, kept, segment_bytes))
    found.segments = len(wanted)
    if wanted:
        shown = ", ".join(sorted(wanted)[:_SHOWN]) + (", ..." if len(wanted) > _SHOWN else "")
        found.needed.append(f"{len(wanted)} WAL files follow a kept backup: {shown}")


def _wanted(doomed: Iterable[str], backups: list[Backup], segment_bytes: int) -> Iterator[str]:
    """Yield the WAL that a kept backup needs: from its start on, on its timeline and those that may branch off it."""
    for name in doomed:
        if not name.startswith("wal/"):
            continue
        if name.startswith(HISTORY):
            if backups:
                yield name.rpartition("/")[2]
            continue
        parts = name.split("/")
        try:
            segment = Segment.parse(parts[-2] if parts[1] == "pieces" else parts[-1], segment_bytes)
        except ValueError:
            continue
        if any(one.timeline <= segment.timeline and one.start < segment.end for one in backups):
            yield segment.name
