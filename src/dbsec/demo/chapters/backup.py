"""Backup and PITR: what is stored is sealed, what was damaged is refused, and an accident is undone on a clone."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dbsec.backup import Repository, open_repository
from dbsec.backup.archive_attacks import DATABASE, ArchiveTarget
from dbsec.backup.archive_attacks import drills as attacks
from dbsec.backup.archives import Archive, PlainArchive
from dbsec.backup.at_rest import attacks as at_rest
from dbsec.backup.at_rest.attacks import DiskTarget
from dbsec.backup.at_rest.proof import Bench
from dbsec.backup.keys import CONTENT, BackupKeys
from dbsec.backup.repository import read_marker
from dbsec.backup.sealed_archive import SealedArchive
from dbsec.demo.accident import Accident
from dbsec.demo.backups import KEK, Backups, admin_kms
from dbsec.demo.baseline import OLD_ARCHIVE, base_backup
from dbsec.demo.chapter import Chapter, Seen
from dbsec.demo.stage import Stage
from dbsec.errors import LabError
from dbsec.evidence import Control, Drill, Observation, Outcome
from dbsec.kms import open_admin, open_kms
from dbsec.lab import ports
from dbsec.pg import Conninfo, connect
from dbsec.pg.instance import Instance
from dbsec.store import ObjectStore

COPIES = "archive-attacks"
SEALED = Control(
    "BAK-SEALED",
    "Base backups and WAL are encrypted before they leave the server",
    "server-side encryption of a bucket gives plaintext to whoever may read the bucket",
    ("NIST SP 800-53 CP-9(8)", "NIST SP 800-53 SC-28(1)"),
)


def drills(stage: Stage) -> Sequence[Drill]:
    """Damage, lose and steal the archive that the primary writes to now, and take the disk below a server."""
    return (*_on_archive(stage), *_on_disk(stage))


def _on_archive(stage: Stage) -> Sequence[Drill]:
    return attacks(
        ArchiveTarget(
            archive=_remembered(stage),
            admin=lambda: stage.login("admin"),
            clone=lambda instance: stage.login("admin").but(port=instance.port),
            folder=stage.lab.folder / COPIES,
            secret=lambda: _one_row(stage.login("admin")),
        )
    )


def _on_disk(stage: Stage) -> Sequence[Drill]:
    """Attack a disk of its own: nobody moves the lab's servers to another one."""
    lab = stage.lab
    bench = Bench(lab.primary.binaries, lab.site.account, lambda: ports.free(1)[0])
    return at_rest.drills(DiskTarget(bench, lab.folder / "disks", lambda: stage.backups is not None))


def harden(stage: Stage) -> Iterator[Seen]:
    """Archive through a resident process into S3, take a sealed base backup, and undo an accident on a clone."""
    stage.backups = backups = Backups.make(stage)
    backups.archive(stage)
    taken = backups.run("take")["result"]
    seen = Observation(Outcome.PASS, f"base backup {taken['id']}: {taken['plain_bytes'] >> 20} MiB", taken)
    yield SEALED, "a sealed base backup, and WAL through the archiver", seen
    clone = _instance(stage, stage.lab.site.subfolder("clone") / "data")
    yield from Accident(stage, backups, clone, DATABASE).seen()


def _remembered(stage: Stage) -> Callable[[], Archive]:
    """Make the archive of this phase once, when the first attack wants it."""
    made: list[Archive] = []

    def archive() -> Archive:
        if not made:
            stage.lab.site.subfolder(COPIES).chmod(0o755)
            made.append(_plain(stage) if stage.backups is None else _sealed(stage, stage.backups))
        return made[0]

    return archive


def _plain(stage: Stage) -> PlainArchive:
    """Take a base backup as the team does, beside the archive that it has."""
    base = stage.lab.site.subfolder(f"plain-{secrets.token_hex(4)}")
    base_backup(stage, base)
    return PlainArchive(base, stage.lab.folder / OLD_ARCHIVE, lambda data: _instance(stage, data))


def _sealed(stage: Stage, backups: Backups) -> SealedArchive:
    backups.tell(stage)
    settings = backups.settings
    stranger = admin_kms(stage, f"{KEK}-stranger")
    open_admin(stranger, environ={}).create()
    return SealedArchive(
        repository=open_repository(settings, environ={}),
        reopen=lambda store: _reopened(store, settings.kms),
        by_stranger=lambda store: _reopened(store, stranger),
        instance=lambda data: _instance(stage, data),
        owner=stage.lab.site.owner,
    )


def _reopened(store: ObjectStore, kms: str) -> Repository:
    system = read_marker(store).system
    keys = BackupKeys(store, system, kms=open_kms(kms, environ={}))
    return Repository(store, system, keys, keys.opened(CONTENT), patience_s=5)


def _instance(stage: Stage, data: Path) -> Instance:
    """Return the server of a restored folder: the lab's programs and account, another port."""
    (port,) = ports.free(1)
    return replace(stage.lab.primary, data=data, port=port, log=data.parent / "clone.log")


def _one_row(admin: Conninfo) -> bytes:
    with connect(admin.but(dbname=DATABASE)) as session:
        row = session.execute("SELECT filler FROM marks WHERE batch = 2 AND n = 77").fetchone()
    if row is None:
        raise LabError("there is no row to look for")
    return str(row[0]).encode()


CHAPTER = Chapter(
    name="backup",
    order=60,
    title="Backup and PITR",
    summary=(
        "Base backups and WAL are sealed before they leave the server, under keys that the KMS wraps. What was "
        "altered, swapped or lost is refused by name instead of opened short; an "
        "accident is undone on a clone, to the row."
    ),
    drills=drills,
    harden=harden,
)
