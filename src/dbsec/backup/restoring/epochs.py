"""Asks for every key that a restore will need, before it writes a byte."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dbsec.backup.catalog import Backup
from dbsec.backup.errors import IncompleteBackup
from dbsec.backup.repository import Repository
from dbsec.backup.wal.names import Segment, object_name, segment_of, timeline_prefix
from dbsec.pg.lsn import Lsn
from dbsec.store import ObjectMissing


def of_backups(repository: Repository, chain: Iterable[Backup]) -> set[str]:
    """Return the epochs of base backups, by the headers of some of their objects: a backup has one epoch.

    Errors: ``IncompleteBackup``, ``Tampered``; those of the store.
    """
    found = set()
    for backup in chain:
        names = list(backup.objects())
        for name in {names[0], names[len(names) // 2], names[-1]}:
            try:
                found.add(repository.header(name).epoch)
            except ObjectMissing as exc:
                raise IncompleteBackup(
                    f"backup '{backup.id}' lacks its object '{name}'", hint="dbsec backup verify"
                ) from exc
    return found


def of_wal(repository: Repository, timeline: int, start: Lsn, end: Lsn, segment_bytes: int) -> set[str]:
    """Return the epochs of a timeline's segments. Their ids ascend as WAL does: equal ends have nothing between."""
    first = Segment.at(timeline, start, segment_bytes)
    before = object_name(Segment(timeline, first.number - 1, segment_bytes).name) if first.number else ""
    names = []
    for entry in repository.list(timeline_prefix(timeline), before):
        segment = segment_of(entry.name, segment_bytes)
        if segment is not None and segment.start >= end:
            break
        if segment is not None:
            names.append(entry.name)
    return _between(repository, names) if names else set()


def _between(repository: Repository, names: Sequence[str]) -> set[str]:
    first, last = repository.header(names[0]).epoch, repository.header(names[-1]).epoch
    if first == last or len(names) <= 2:
        return {first, last}
    middle = len(names) // 2
    return _between(repository, names[: middle + 1]) | _between(repository, names[middle:])


def open_all(repository: Repository, epochs: Iterable[str]) -> int:
    """Open the key of each epoch and return how many there are. Errors: ``KeyUnavailable``, ``Tampered``."""
    opened = 0
    for epoch in sorted(epochs):
        repository.keys.key(epoch)
        opened += 1
    return opened
