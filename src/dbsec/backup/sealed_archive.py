"""A copy of a sealed repository in a folder, to be attacked, and restored as one restores the repository itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dbsec.backup.repository import Repository
from dbsec.backup.restoring.plan import plan
from dbsec.backup.restoring.restore import restore
from dbsec.backup.restoring.target import Target
from dbsec.backup.wal import commands
from dbsec.backup.wal.names import object_name
from dbsec.backup.wal.serving import FETCH, serve
from dbsec.pg.instance import Instance
from dbsec.progress import Silent
from dbsec.store import ObjectMissing, ObjectStore
from dbsec.store.file import FileStore


@dataclass(frozen=True, slots=True)
class SealedArchive:
    """``reopen`` opens the repository over another store with the keys that a restorer has, ``by_stranger`` with those
    of somebody else; ``instance`` as in ``PlainArchive``; ``owner`` is (uid, gid) of the server's account, for root.
    """

    repository: Repository
    reopen: Callable[[ObjectStore], Repository]
    by_stranger: Callable[[ObjectStore], Repository]
    instance: Callable[[Path], Instance]
    owner: tuple[int, int] | None = None
    name: str = "the sealed archive"

    def has(self, segment: str) -> bool:
        try:
            self.repository.store.head(object_name(segment))
        except ObjectMissing:
            return False
        return True

    def copied(self, folder: Path) -> SealedCopy:
        (folder / "store").mkdir(mode=0o700)
        copy = FileStore(folder / "store")
        for entry in self.repository.store.list():
            copy.put(entry.name, self.repository.store.get(entry.name))
        return SealedCopy(folder, self)

    def stolen(self, folder: Path) -> SealedCopy:
        return replace(self, reopen=self.by_stranger).copied(folder)


@dataclass(frozen=True, slots=True)
class SealedCopy:
    """Its objects are files below ``folder/store``."""

    folder: Path
    archive: SealedArchive

    def place(self, segment: str) -> Path:
        return self.folder / "store" / object_name(segment)

    def everything(self) -> Iterator[Path]:
        return (path for path in (self.folder / "store").rglob("*") if path.is_file())

    @contextmanager
    def restored(self, folder: Path) -> Iterator[Instance]:
        """Restore to the end of the WAL, and serve WAL while the block runs. Errors: those of ``plan``, ``restore``."""
        repository = self.archive.reopen(FileStore(self.folder / "store"))
        instance, owner = self.archive.instance(folder), self.archive.owner
        if owner is not None:
            os.chown(self.folder, *owner)
        client = commands.install_client(self.folder)
        command = commands.restore_command(
            self.folder / "wal.sock", client=client, python=commands.find_python(instance.account)
        )
        restore(
            repository,
            plan(repository, Target(), keys=False),
            folder,
            restore_command=command,
            progress=Silent(),
            binaries=instance.binaries,
            port=instance.port,
            owner=owner,
        )
        with _unheard(), serve(repository, self.folder / "wal.sock", verbs=(FETCH,), owner=owner, settle_s=0):
            yield instance


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep what the resident process logs to ourselves: a refusal is what an attack ends in, and it is returned."""
    log = logging.getLogger(serve.__module__)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
