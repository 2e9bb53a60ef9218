"""Fills folders with the files of one base backup: its data folder, its tablespaces, its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import Final

from dbsec import files
from dbsec.backup.base.members import Member
from dbsec.backup.catalog import Archive, Backup, Layout, description_name
from dbsec.backup.errors import Tampered
from dbsec.backup.repository import Repository
from dbsec.backup.restoring import scattered, tar_stream
from dbsec.backup.restoring.errors import trouble
from dbsec.backup.restoring.fetching import Opened, in_order, read
from dbsec.backup.restoring.folder import Folder
from dbsec.backup.restoring.programs import MANIFEST
from dbsec.backup.restoring.spaces import make_links
from dbsec.progress import Progress

_NEEDED: Final = ("backup_label", "PG_VERSION", "global/pg_control")


def fill(
    repository: Repository, backup: Backup, data: Path, places: Mapping[int, Path], *, workers: int, progress: Progress
) -> None:
    """Write every file of a backup: ``data`` is new, ``places`` are the empty folders of its tablespaces by oid.

    ``pg_control`` is written last. Errors: ``Tampered``, ``IncompleteBackup``, ``RestoreFailed``, ``GaveUp``.
    """
    with trouble(data):
        data.mkdir(mode=0o700)
    objects = _Objects(repository, backup, progress)
    base = next((archive for archive in backup.archives if not archive.oid), None)
    if base is None or {archive.oid for archive in backup.archives} != {0, *(one.oid for one in backup.tablespaces)}:
        raise Tampered(description_name(backup.id), "its archives are not those of its tablespaces")
    with closing(Folder(data, f"base/{backup.id}")) as folder:
        _unpack(base, backup.layout, objects, folder, workers)
        _manifest(backup, objects, folder, workers)
        for archive in backup.archives:
            if archive.oid:
                with closing(Folder(_place(data, archive.oid, places), f"base/{backup.id}")) as space:
                    _unpack(archive, backup.layout, objects, space, workers)
        make_links(data, places)
        folder.release()
    for name in _NEEDED:
        if not (data / name).is_file():
            raise Tampered(description_name(backup.id), f"its archives hold no '{name}'")


def _place(data: Path, oid: int, places: Mapping[int, Path]) -> Path:
    if oid in places:
        return places[oid]
    inside = data / "pg_tblspc" / str(oid)
    files.make_folder(inside, mode=0o700)
    return inside


def _unpack(archive: Archive, layout: Layout, objects: _Objects, folder: Folder, workers: int) -> None:
    if layout is Layout.TAR:
        tar_stream.unpack(archive, objects.read, folder, workers=workers)
    else:
        scattered.unpack(archive, layout, objects.read, folder, workers=workers)


def _manifest(backup: Backup, objects: _Objects, folder: Folder, workers: int) -> None:
    if not backup.manifest:
        return
    folder.take(Member(MANIFEST, "f", 0o600))
    at = 0
    with folder.writing(MANIFEST) as stream:
        for opened in in_order(objects.read, backup.manifest, workers=workers):
            for piece in opened.pieces:
                stream.write(at, memoryview(piece))
                at += len(piece)


class _Objects:
    """The objects of one backup; says how many were read."""

    def __init__(self, repository: Repository, backup: Backup, progress: Progress) -> None:
        self._repository = repository
        self._id = backup.id
        self._progress = progress
        self._total = sum(1 for _ in backup.objects()) - 1
        self._done = 0
        self._lock = Lock()

    def read(self, name: str) -> Opened:
        opened = read(self._repository, self._id, name)
        with self._lock:
            self._done += 1
            self._progress.count(f"objects of {self._id} opened", self._done, self._total)
        return opened
