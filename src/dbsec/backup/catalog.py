"""What is known of each base backup: its description, sealed and written last, and the list of them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from dbsec import canonical
from dbsec.backup.errors import IncompleteBackup, Tampered
from dbsec.backup.keys import Epoch
from dbsec.backup.repository import Repository
from dbsec.errors import NewerFormat
from dbsec.pg.lsn import Lsn
from dbsec.store import ObjectMissing

FORMAT: Final = 1
BASE: Final = "base/"
_ID: Final = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}", re.ASCII)


class Layout(StrEnum):
    """How the objects of a backup become files.

    ``tar``: each archive's objects, joined in order and unpacked by its ``packed``, are one tar. ``slices``: the same,
    but each object is packed by itself, and ``members`` says where each file begins, so that they can be written in
    any order. ``ranges``: each object holds whole ranges of files, which ``members`` names.
    """

    TAR = "tar"
    SLICES = "slices"
    RANGES = "ranges"


@dataclass(frozen=True, slots=True)
class Tablespace:
    """A tablespace that is not pg_default or pg_global: where its folder was."""

    oid: int
    path: str


@dataclass(frozen=True, slots=True)
class Archive:
    """One folder of the cluster: ``oid`` 0 is the data folder, others are tablespaces.

    ``objects`` are the names of its objects in order; ``members`` those with the list of its files (slices and ranges:
    ``base.members``). ``packed`` is how the server has compressed the whole: "zstd", "gzip" or "".
    """

    oid: int
    objects: tuple[str, ...]
    plain_bytes: int
    packed: str = ""
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Backup:
    """A base backup. ``parent`` is the id of the backup that an incremental one builds on, else "".

    ``page_checksums``: whether every page was verified while it was taken. ``source``: primary or standby. Times are
    RFC 3339 in UTC; LSNs are text.
    """

    id: str
    system: int
    layout: Layout
    parent: str
    engine: str
    source: str
    server_version: str
    timeline: int
    start_lsn: str
    stop_lsn: str
    started: str
    stopped: str
    segment_bytes: int
    archives: tuple[Archive, ...]
    manifest: tuple[str, ...]
    tablespaces: tuple[Tablespace, ...]
    plain_bytes: int
    stored_bytes: int
    page_checksums: bool
    label: str = ""

    @property
    def start(self) -> Lsn:
        return Lsn.parse(self.start_lsn)

    @property
    def stop(self) -> Lsn:
        return Lsn.parse(self.stop_lsn)

    @property
    def stopped_at(self) -> datetime:
        return datetime.fromisoformat(self.stopped)

    def objects(self) -> Iterator[str]:
        """Yield the name of every object it is made of, its description last."""
        for archive in self.archives:
            yield from archive.objects
            yield from archive.members
        yield from self.manifest
        yield description_name(self.id)

    def raw(self) -> bytes:
        return canonical.json_bytes({"format": FORMAT, **asdict(self)})

    @classmethod
    def parse(cls, name: str, raw: bytes) -> Backup:
        """Read a description. Errors: ``Tampered``, ``NewerFormat``."""
        try:
            told: dict[str, Any] = json.loads(raw)
            if (found := told.pop("format")) > FORMAT:
                raise NewerFormat(f"'{name}'", found=found, known=FORMAT)
            archives = tuple(_archive(one) for one in told.pop("archives"))
            spaces = tuple(Tablespace(**one) for one in told.pop("tablespaces"))
            layout, manifest = Layout(told.pop("layout")), tuple(told.pop("manifest"))
            return cls(layout=layout, archives=archives, tablespaces=spaces, manifest=manifest, **told)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise Tampered(name, "it is no description of a backup") from exc


def new_id(now: datetime) -> str:
    """Return a name for a backup that sorts by its second: ``20261124T101500Z-3f2a9c1d``."""
    return f"{now:%Y%m%dT%H%M%SZ}-{os.urandom(4).hex()}"


def description_name(backup: str) -> str:
    return f"{BASE}{backup}/backup"


def data_name(backup: str, number: int) -> str:
    """Return the name of an object of a backup; ``number`` counts over all its archives."""
    return f"{BASE}{backup}/data/{number:08d}"


def manifest_name(backup: str, number: int) -> str:
    return f"{BASE}{backup}/manifest/{number:04d}"


def put_backup(repository: Repository, backup: Backup, *, epoch: Epoch | None = None) -> Backup:
    """Put the description: from now on it is a backup. Errors: those of ``Repository.put``."""
    repository.put(description_name(backup.id), backup.raw(), timeline=backup.timeline, epoch=epoch)
    return backup


def get_backup(repository: Repository, backup: str) -> Backup:
    """Read one. Errors: ``IncompleteBackup`` for one that was never finished; those of ``Repository.get``."""
    name = description_name(backup)
    try:
        return Backup.parse(name, repository.get(name))
    except ObjectMissing as exc:
        raise IncompleteBackup(f"there is no finished backup '{backup}'", hint="dbsec backup list") from exc


def ids(repository: Repository) -> dict[str, bool]:
    """Return the ids of all that was begun, oldest first, and whether each is finished.

    What lies there under another name than ``new_id`` gives is no backup of ours: ``verify`` tells it.
    """
    found: dict[str, bool] = {}
    after = BASE
    while (entry := next(iter(repository.list(BASE, after)), None)) is not None:
        backup = entry.name.split("/")[1]
        if _ID.fullmatch(backup):
            found[backup] = False
        after = f"{BASE}{backup}0"  # "0" follows "/": the first name of the next backup
    for backup in found:
        found[backup] = next(iter(repository.list(description_name(backup))), None) is not None
    return found


def backups(repository: Repository) -> list[Backup]:
    """Return every finished backup, oldest first. Errors: those of ``get_backup``."""
    found = [get_backup(repository, backup) for backup, whole in ids(repository).items() if whole]
    return sorted(found, key=lambda one: (one.started, one.id))  # an id tells whole seconds


def chain(repository: Repository, backup: Backup) -> list[Backup]:
    """Return a backup and those it builds on, the full one first. Errors: those of ``get_backup``; ``Tampered``."""
    found = [backup]
    while found[0].parent:
        parent = get_backup(repository, found[0].parent)
        if any(parent.id == one.id for one in found):
            raise Tampered(description_name(backup.id), "its chain of parents is a circle")
        found.insert(0, parent)
    return found


def _archive(told: Mapping[str, Any]) -> Archive:
    archive = Archive(**told)
    return replace(archive, objects=tuple(archive.objects), members=tuple(archive.members))
