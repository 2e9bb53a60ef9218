"""Puts the files of a cluster as objects of ranges, on threads that each read, check, pack and seal."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from dbsec.backup import catalog
from dbsec.backup.base import members
from dbsec.backup.base.archiving import MANIFEST_BYTES
from dbsec.backup.base.listing_files import CONTROL, Found
from dbsec.backup.base.local_folder import Server
from dbsec.backup.base.manifest_text import ManifestFile, manifest_text
from dbsec.backup.base.members import Member, Part
from dbsec.backup.base.options import TakeOptions
from dbsec.backup.base.range_folders import Folder, Folders
from dbsec.backup.base.range_reading import Pace, PageCheck, Piece, Read, Suspect, cut, read_pieces
from dbsec.backup.base.writing import OBJECT_BYTES
from dbsec.backup.catalog import Archive
from dbsec.backup.keys import Epoch
from dbsec.backup.repository import Repository
from dbsec.clock import Clock
from dbsec.pg.lsn import Lsn
from dbsec.progress import Progress

_WAITS: Final = 1  # threads beside the workers: one of them waits for the disk most of the time


@dataclass(frozen=True, slots=True)
class Last:
    """The files that are put last: what makes the others a cluster."""

    control: bytes
    label: bytes
    spaces: bytes

    def files(self) -> list[tuple[str, bytes]]:
        told = [(CONTROL, self.control), ("backup_label", self.label), ("tablespace_map", self.spaces)]
        return [(path, raw) for path, raw in told if raw]


@dataclass(frozen=True, slots=True)
class Stored:
    """What came of it."""

    archives: tuple[Archive, ...]
    manifest: tuple[str, ...]
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class _Done:
    """What one thread has put; no ``name`` where all of it had vanished."""

    name: str
    read: Sequence[Read]
    suspects: Sequence[Suspect]
    stored_bytes: int

    @property
    def size(self) -> int:
        return sum(one.size for one in self.read)


@dataclass(slots=True)
class _Content:
    """What one archive holds so far."""

    folder: Folder
    objects: list[str] = field(default_factory=list)
    parts: dict[str, list[Part]] = field(default_factory=dict)
    plain_bytes: int = 0


class Storer:
    """Puts one backup. Errors of its use: ``BackupError``; ``ProgramMissing``; those of ``Repository.put``."""

    def __init__(
        self,
        repository: Repository,
        backup: str,
        epoch: Epoch,
        timeline: int,
        server: Server,
        options: TakeOptions,
        progress: Progress,
        clock: Clock,
    ) -> None:
        self._repository = repository
        self._backup = backup
        self._epoch = epoch
        self._timeline = timeline
        self._server = server
        self._workers = options.workers + _WAITS
        self._pace = Pace(options.rate_bytes_s, clock=clock)
        self._progress = progress
        self._clock = clock
        self._own = threading.local()
        self._numbers = count()
        self._contents: list[_Content] = []
        self._stored_bytes = 0

    def store(self, folders: Folders) -> list[Suspect]:
        """Put the files of all folders, and return the pages that fail their checksums."""
        suspects: list[Suspect] = []
        total, seen = folders.total_bytes, 0
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="dbsec-ranges")
        try:
            under_way = [self._submitted(pool, folder) for folder in folders.all]
            for folder, futures in zip(folders.all, under_way, strict=True):
                content = _Content(folder)
                self._contents.append(content)
                while futures:
                    done = futures.pop(0).result()
                    self._note(content, done)
                    suspects += done.suspects
                    seen += done.size
                    self._progress.count("MB read, packed here", seen >> 20, max(total, seen) >> 20)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return suspects

    def finish(self, last: Last, start: Lsn, stop: Lsn, timeline: int) -> Stored:
        """Put the last files, the lists of files and the manifest."""
        self._put_last(last)
        told = [(content, list(_members(content))) for content in self._contents]
        archives = tuple(self._archive(content, listed) for content, listed in told)
        text = manifest_text(
            (
                ManifestFile(c.folder.below + m.path, m.size, m.mtime)
                for c, listed in told
                for m in listed
                if m.type == "f"
            ),
            major=self._server.major,
            system=self._server.system,
            timeline=timeline,
            start=str(start),
            stop=str(stop),
        )
        names = []
        for number, at in enumerate(range(0, len(text), MANIFEST_BYTES)):
            names.append(catalog.manifest_name(self._backup, number))
            self._put(names[-1], text[at : at + MANIFEST_BYTES])
        return Stored(archives, tuple(names), self._stored_bytes)

    def _submitted(self, pool: ThreadPoolExecutor, folder: Folder) -> list[Future[_Done]]:
        check = None
        if self._server.checksums:
            check = PageCheck(folder.root, self._server.block_bytes, clock=self._clock)
        return [
            pool.submit(self._one, folder, pieces, check, catalog.data_name(self._backup, next(self._numbers)))
            for pieces in cut(folder.listing.files, OBJECT_BYTES)
        ]

    def _one(self, folder: Folder, pieces: Sequence[Piece], check: PageCheck | None, name: str) -> _Done:
        """Read, check, pack, seal and put one object."""
        buffer = self._buffer()
        self._pace.wait_for(sum(piece.size for piece in pieces))
        read = read_pieces(folder.root, pieces, buffer)
        size = sum(one.size for one in read)
        if not size:
            return _Done("", read, (), 0)
        suspects = check(read, buffer) if check is not None else []
        put = self._repository.put(name, buffer[:size], timeline=self._timeline, epoch=self._epoch)
        return _Done(name, read, suspects, put.stored_bytes)

    def _buffer(self) -> memoryview:
        if not hasattr(self._own, "buffer"):
            self._own.buffer = memoryview(bytearray(OBJECT_BYTES))
        found: memoryview = self._own.buffer
        return found

    def _note(self, content: _Content, done: _Done) -> None:
        if not done.name:
            return
        self._stored_bytes += done.stored_bytes
        number = len(content.objects)
        content.objects.append(done.name)
        content.plain_bytes += done.size
        for one in done.read:
            if one.size:
                part = Part(number, one.at, one.piece.offset, one.size)
                content.parts.setdefault(one.piece.file.path, []).append(part)

    def _put_last(self, last: Last) -> None:
        content = self._contents[0]
        mode = (content.folder.root / CONTROL).stat().st_mode & 0o777
        raw, number, now = bytearray(), len(content.objects), int(self._clock.now().timestamp())
        for path, whole in last.files():
            content.folder.listing.files.append(Found(path, len(whole), mode, now))
            content.parts[path] = [Part(number, len(raw), 0, len(whole))]
            raw += whole
        content.objects.append(catalog.data_name(self._backup, next(self._numbers)))
        content.plain_bytes += len(raw)
        self._put(content.objects[-1], bytes(raw))

    def _archive(self, content: _Content, listed: Iterable[Member]) -> Archive:
        pages = []
        for page in members.pages(listed):
            pages.append(catalog.data_name(self._backup, next(self._numbers)))
            self._put(pages[-1], page)
        return Archive(content.folder.oid, tuple(content.objects), content.plain_bytes, "", tuple(pages))

    def _put(self, name: str, plain: bytes) -> None:
        put = self._repository.put(name, plain, timeline=self._timeline, epoch=self._epoch)
        self._stored_bytes += put.stored_bytes


def _members(content: _Content) -> Iterable[Member]:
    """Yield folders, links and files as they were read.

    A file ends at its first short read: it was truncated since the backup began, and what was written behind that
    since is in the WAL.
    """
    yield from content.folder.listing.others
    for file in content.folder.listing.files:
        parts: list[Part] = []
        size = 0
        for part in content.parts.get(file.path, ()):
            if part.offset != size:
                break
            parts.append(part)
            size += part.size
        if parts or not file.size:  # one that had bytes and gave none has vanished
            yield Member(file.path, "f", file.mode, size, file.mtime, parts=tuple(parts))
