"""What a repository can bring back: from which base backup to which position and time, and what it cannot."""

from __future__ import annotations

from dataclasses import dataclass

from dbsec.backup import catalog
from dbsec.backup.catalog import Backup
from dbsec.backup.errors import BackupError, KeyUnavailable, NotRecoverable
from dbsec.backup.repository import Repository, read_marker
from dbsec.backup.restoring.coverage import Cover, Leg, Wal, lies_on, path_to
from dbsec.backup.wal.frontier import histories, timelines
from dbsec.pg.lsn import Lsn
from dbsec.store import StoreError


@dataclass(frozen=True, slots=True)
class Reachable:
    """A base backup and how far the WAL behind it leads."""

    backup: Backup
    cover: Cover

    @property
    def consistent(self) -> bool:
        """Tell whether there is all the WAL without which the backup is not even a database."""
        return self.cover.end >= self.backup.stop

    def __str__(self) -> str:
        since = f"from {self.backup.stop_lsn} ({self.backup.stopped}) with backup '{self.backup.id}'"
        if not self.consistent:
            return f"nothing with backup '{self.backup.id}': its WAL ends at {self.cover.end}, before its own end"
        stored = f" (stored {self.cover.newest:%Y-%m-%d %H:%M:%SZ})" if self.cover.newest else ""
        hole = f"; WAL is missing from {self.cover.hole[0]} to {self.cover.hole[1]}" if self.cover.hole else ""
        return f"{since} to {self.cover.end}{stored} on timeline {self.cover.timeline}{hole}"


@dataclass(frozen=True, slots=True)
class Window:
    """What can be reached on the way to ``timeline``, oldest backup first.

    ``apart`` are finished backups on other ways, ``unfinished`` ids without a description, ``doubtful`` those whose
    description cannot be read, with the reason.
    """

    timeline: int
    reachable: tuple[Reachable, ...]
    apart: tuple[Backup, ...]
    unfinished: tuple[str, ...]
    doubtful: dict[str, str]

    def __str__(self) -> str:
        whole = [one for one in self.reachable if one.consistent]
        if not whole:
            return "nothing can be reached"
        ends = whole[:1] if len(whole) == 1 else [whole[0], whole[-1]]
        return "; ".join(f"it reaches {one}" for one in ends)


def window(repository: Repository, *, timeline: int | None = None) -> Window:
    """Tell what can be reached on a timeline, by default the newest.

    A backup whose description is damaged does not hide the others. Errors: ``NotRecoverable`` where there is no such
    timeline; those of the store; ``Tampered`` for a history.
    """
    found, unfinished, doubtful = _catalogued(repository)
    known = histories(repository)
    there = {*known, *timelines(repository), *(backup.timeline for backup in found)}
    if timeline is not None and timeline not in there:
        listed = ", ".join(map(str, sorted(there))) or "none"
        raise NotRecoverable(f"there is no timeline {timeline} in the repository; known: {listed}")
    wanted = timeline or max(there, default=1)
    path = path_to(wanted, known)
    on_path = [backup for backup in found if lies_on(backup, path)]
    return Window(
        wanted,
        tuple(_reachable(repository, on_path, path)),
        tuple(backup for backup in found if backup not in on_path),
        unfinished,
        doubtful,
    )


def _reachable(repository: Repository, found: list[Backup], path: list[Leg]) -> list[Reachable]:
    if not found:
        return []
    since = min((backup.start for backup in found), default=Lsn(0))
    wal = Wal(repository, since=since, segment_bytes=read_marker(repository.store).segment_bytes)
    return [Reachable(backup, wal.cover(backup.start, backup.timeline, path)) for backup in found]


def _catalogued(repository: Repository) -> tuple[list[Backup], tuple[str, ...], dict[str, str]]:
    found: list[Backup] = []
    unfinished: list[str] = []
    doubtful: dict[str, str] = {}
    for backup, finished in catalog.ids(repository).items():
        if not finished:
            unfinished.append(backup)
            continue
        try:
            found.append(catalog.get_backup(repository, backup))
        except KeyUnavailable as exc:
            if not exc.refused:  # nobody could be asked: that says nothing of this backup
                raise
            doubtful[backup] = exc.message
        except (BackupError, StoreError) as exc:
            doubtful[backup] = exc.message
    # ids of one second have no order
    return sorted(found, key=lambda backup: (backup.stop, backup.stopped)), tuple(unfinished), doubtful
