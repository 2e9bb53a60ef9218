"""Repositories with many epochs, and such whose KEK is one for each month: what tests of keys share."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.backup_bed import SEGMENT, SYSTEM, Bed, make_kek
from tests.clocks import Hands

from dbsec.backup import Backup, BackupSettings, Cluster, init_repository
from dbsec.backup.catalog import Archive, Layout, data_name, put_backup
from dbsec.backup.key_records import EPOCHS, PRIMARY, KeyRecord, Wrap, epoch_name, wrap_aad
from dbsec.backup.keys import BackupKeys, Epoch
from dbsec.backup.wal.names import Segment, object_name
from dbsec.clock import SYSTEM as NOW
from dbsec.clock import rfc3339

OLD, NEXT = "2026-09", "2026-10"  # months that are over whenever these tests run
PLAIN = b"what has to go " * 1000
NAMES = [object_name(Segment(1, number, SEGMENT).name) for number in range(1, 6)]


class At(Hands):
    """A clock that shows one moment until it is moved."""

    def __init__(self, moment: datetime) -> None:
        super().__init__()
        self.moment = moment

    def now(self) -> datetime:
        return self.moment


def months() -> tuple[str, ...]:
    """Return the periods that a bed has KEKs for."""
    return ("all", OLD, NEXT, f"{NOW.now():%Y-%m}")


def month_bed(folder: Path, *, escrow: bool = False) -> Bed:
    """Make a repository in a folder, under KEKs in files."""
    environ = {"KEK": secrets.token_urlsafe(24)}
    told = {"store": f"file://{folder}/store", "patience": "2s"}
    for name in ("kms", "escrow") if escrow else ("kms",):
        (folder / name).mkdir()
        for month in months():
            make_kek(folder / name / f"{month}.json", environ)
        told[name] = f"file-kek:{folder}/{name}/{{tenant}}.json?passphrase=env:KEK"
    return bed_under(folder, environ, **told)


def bed_under(folder: Path, environ: dict[str, str], **told: str) -> Bed:
    """Make a repository under KEKs that are there."""
    (folder / "store").mkdir(mode=0o700)
    settings = BackupSettings(**{"store": f"file://{folder}/store", "patience": "2s", **told})  # type: ignore[arg-type]
    return Bed(folder, settings, environ, init_repository(settings, Cluster(SYSTEM, SEGMENT), environ=environ))


def epoch_of(bed: Bed, month: str) -> Epoch:
    """Begin an epoch as it was begun in a month."""
    year, number = map(int, month.split("-"))
    keys = bed.repository.keys
    return BackupKeys(
        keys.store, SYSTEM, kms=keys.kms, escrow=keys.escrow, clock=At(datetime(year, number, 15, tzinfo=UTC))
    ).begin()


def wal(bed: Bed, month: str, number: int) -> str:
    """Seal a segment in a month."""
    name = object_name(Segment(1, number, SEGMENT).name)
    bed.repository.put(name, PLAIN, timeline=1, epoch=epoch_of(bed, month))
    return name


def backup(bed: Bed, month: str, *, start: int, parent: str = "", label: str = "") -> Backup:
    """Put a base backup of a month that begins in a segment."""
    epoch = epoch_of(bed, month)
    id = f"{epoch.id[:16]}-{secrets.token_hex(4)}"
    name = data_name(id, 0)
    bed.repository.put(name, PLAIN, timeline=1, epoch=epoch)
    lsn = str(Segment(1, start, SEGMENT).start)
    made = Backup(
        id=id, system=SYSTEM, layout=Layout.TAR, parent=parent, engine="protocol", source="primary",
        server_version="17.0", timeline=1, start_lsn=lsn, stop_lsn=lsn, started=f"{month}-15T00:00:00.000000Z",
        stopped=f"{month}-15T00:01:00.000000Z", segment_bytes=SEGMENT,
        archives=(Archive(0, (name,), len(PLAIN)),), manifest=(), tablespaces=(),
        plain_bytes=len(PLAIN), stored_bytes=1, page_checksums=True, label=label,
    )  # fmt: skip
    return put_backup(bed.repository, made, epoch=epoch)


def fill(bed: Bed, epochs: int = 5) -> None:
    """Seal an object in each of some epochs."""
    for name in NAMES[:epochs]:
        bed.repository.put(name, PLAIN + name.encode(), epoch=bed.repository.keys.begin())


def forge_epochs(bed: Bed, count: int) -> None:
    """Write the objects of many epochs, as a repository of years has them."""
    kms, begin = bed.repository.keys.kms, datetime(2016, 1, 1, tzinfo=UTC)
    assert kms is not None
    told = kms.describe()
    (bed.store_folder / EPOCHS).mkdir(exist_ok=True)
    for number in range(count):
        name = epoch_name(f"{begin + timedelta(hours=9 * number):%Y%m%dT%H%M%SZ}-{number:08x}")
        wrap = Wrap(PRIMARY, told.kek, told.version, kms.wrap(os.urandom(32), wrap_aad(name, SYSTEM)))
        (bed.store_folder / name).write_bytes(KeyRecord(name, SYSTEM, rfc3339(begin), (wrap,)).raw())
