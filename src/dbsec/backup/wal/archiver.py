"""Archives what the server asks for, and meanwhile what it will ask for next."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from dbsec.backup.repository import Repository, read_marker
from dbsec.backup.wal import push as pushing
from dbsec.backup.wal.names import Segment
from dbsec.errors import DbsecError

READY: Final = ".ready"


@dataclass(frozen=True, slots=True)
class FileId:
    """Which file under a name was put; a segment that was recycled since is another one."""

    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, fd: int) -> FileId:
        status = os.fstat(fd)
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class Archiver:
    """Puts files one by one as they are asked for; ``workers`` put up to ``ahead`` segments before they are.

    Safe in threads. Memory: a segment twice for each worker and each caller; of what is done ahead only names are kept.
    """

    def __init__(self, repository: Repository, pool: ThreadPoolExecutor, *, ahead: int) -> None:
        self._repository = repository
        self._segment_bytes = read_marker(repository.store).segment_bytes
        self._pool = pool
        self._ahead = ahead
        self._lock = threading.Lock()
        self._begun: dict[tuple[str, str], Future[FileId]] = {}

    def push(self, name: str, fd: int, folder: str) -> int:
        """Put an open file of ``folder`` under its name and return its size; it is acknowledged when this returns.

        What was put ahead counts where it is the very file. Errors: those of ``push_file``.
        """
        told = FileId.of(fd)
        with self._lock:
            begun = self._begun.pop((folder, name), None)
        if self._ahead:
            self._look_ahead(folder, name)
        if begun is not None and not begun.cancel():
            # what failed ahead may succeed now, and fails here with its reason if not
            with suppress(DbsecError, OSError):
                if begun.result() == told:
                    return told.size
        self._put(name, fd)
        return told.size

    def _look_ahead(self, folder: str, name: str) -> None:
        with self._lock:
            for key in [key for key in self._begun if key[1] <= name or key[0] != folder]:
                if self._begun[key].done() or self._begun[key].cancel():
                    del self._begun[key]
            if len(self._begun) > self._ahead // 2:
                return
            for later in _ready_after(folder, name, self._ahead):
                if (folder, later) not in self._begun and len(self._begun) < self._ahead:
                    # after the drain has begun the pool takes nothing more
                    with suppress(RuntimeError):
                        self._begun[folder, later] = self._pool.submit(self._put_ahead, folder, later)

    def _put_ahead(self, folder: str, name: str) -> FileId:
        fd = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            told = FileId.of(fd)
            self._put(name, fd)
            return told
        finally:
            os.close(fd)

    def _put(self, name: str, fd: int) -> None:
        raw = pushing.read_whole(fd, name)
        pushing.push(self._repository, name, raw, segment_bytes=self._segment_bytes)


def _ready_after(folder: str, name: str, most: int) -> list[str]:
    """Name the segments that wait to be archived after this one, in the order in which the server will ask."""
    try:
        with os.scandir(f"{folder}/archive_status") as scan:
            waiting = [entry.name.removesuffix(READY) for entry in scan if entry.name.endswith(READY)]
    except OSError:
        return []
    return sorted(one for one in waiting if one > name and _is_segment(one))[:most]


def _is_segment(name: str) -> bool:
    with suppress(ValueError):
        return bool(Segment.parse(name, 1 << 20))
    return False
