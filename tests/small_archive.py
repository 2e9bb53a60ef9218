"""Repositories of a few small objects that look like a month of backups: what tests of verify and expire share."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.backup_bed import Bed, make_bed
from tests.wal_files import SMALL, segment_bytes_of, segment_name

from dbsec.backup import Backup, Repository, open_repository
from dbsec.backup.catalog import Archive, Layout, data_name, manifest_name, put_backup
from dbsec.backup.repository import MARKER, marker_bytes
from dbsec.backup.settings import RetentionSettings
from dbsec.backup.wal.names import Segment, object_name
from dbsec.clock import Clock, rfc3339

NOW = datetime.now(UTC)
LAST = RetentionSettings(count=1)
PROMISED = timedelta(days=7)


class At(Clock):
    """A clock that shows one moment."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing is waited for")


def wal(repository: Repository, *numbers: int, timeline: int = 1) -> list[str]:
    """Archive segments; returns the names of their objects."""
    names = []
    for number in numbers:
        file = segment_name(number, timeline)
        repository.put(object_name(file), segment_bytes_of(file), timeline=timeline)
        names.append(object_name(file))
    return names


def backup(repository: Repository, segment: int, days: float, *, parent: str = "", serial: int = 0) -> Backup:
    """Put a backup that begins and ends in a segment, and ended so many days ago."""
    at = NOW - timedelta(days=days)
    id = f"{at:%Y%m%dT%H%M%SZ}-{serial:08x}"
    epoch = repository.keys.begin()
    data, manifest = [data_name(id, number) for number in range(3)], manifest_name(id, 0)
    for name in (*data, manifest):
        repository.put(name, name.encode() * 100, timeline=1, epoch=epoch)
    here = Segment(1, segment, SMALL)
    made = Backup(
        id=id, system=repository.system, layout=Layout.TAR, parent=parent, engine="protocol", source="primary",
        server_version="17.0", timeline=1, start_lsn=str(here.start), stop_lsn=str(here.end),
        started=rfc3339(at), stopped=rfc3339(at), segment_bytes=SMALL, archives=(Archive(0, tuple(data), 1000),),
        manifest=(manifest,), tablespaces=(), plain_bytes=1000, stored_bytes=1000, page_checksums=True,
    )  # fmt: skip
    return put_backup(repository, made, epoch=epoch)


def month(repository: Repository) -> dict[str, Backup]:
    """Fill a repository: full, incremental, full and two incremental ones, and all WAL since the first."""
    wal(repository, *range(1, 13))
    a = backup(repository, 1, 28)
    a1 = backup(repository, 3, 21, parent=a.id)
    b = backup(repository, 6, 14)
    b1 = backup(repository, 8, 8, parent=b.id)
    b2 = backup(repository, 10, 1, parent=b1.id)
    return {"a": a, "a1": a1, "b": b, "b1": b1, "b2": b2}


def aged(bed: Bed, days: float) -> None:
    """Make the repository as old as one that was made so many days ago."""
    path = bed.store_folder / MARKER
    path.write_bytes(marker_bytes(bed.repository.system, segment_bytes=SMALL, clock=At(NOW - timedelta(days=days))))


def small_bed(folder: Path) -> Bed:
    return make_bed(folder, segment_bytes=SMALL)


def copy_of(bed: Bed, folder: Path) -> Bed:
    """Copy a repository in a folder, to be damaged."""
    shutil.copytree(bed.store_folder, folder / "store")
    settings = bed.settings.model_copy(update={"store": f"file://{folder}/store"})
    return Bed(folder, settings, bed.environ, open_repository(settings, environ=bed.environ))


def names(repository: Repository, prefix: str = "") -> list[str]:
    return [entry.name for entry in repository.list(prefix)]
