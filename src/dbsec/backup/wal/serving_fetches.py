"""Reads the archive for a server that recovers, and meanwhile what it will ask for next."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from dbsec.backup.repository import Repository, read_marker
from dbsec.backup.wal import fetch as fetching
from dbsec.backup.wal.names import Segment
from dbsec.errors import DbsecError


class Fetcher:
    """Reads files as they are asked for, and up to ``ahead`` segments before they are; these are held in memory.

    What was read ahead is only ever a whole segment, proven; everything else is decided when it is asked for.
    """

    def __init__(self, repository: Repository, pool: ThreadPoolExecutor, *, ahead: int, settle_s: float) -> None:
        self._repository = repository
        self._segment_bytes = read_marker(repository.store).segment_bytes
        self._pool = pool
        self._ahead = ahead
        self._settle_s = settle_s
        self._lock = threading.Lock()
        self._begun: dict[str, Future[bytes]] = {}

    def fetch(self, name: str, fd: int) -> int:
        """Write a file of the archive into an open, empty file, durable, and return its size.

        Errors: those of ``fetch.read``; ``OSError``.
        """
        plain = self._read(name)
        with memoryview(plain) as rest:
            done = 0
            while done < len(rest):
                done += os.write(fd, rest[done:])
        os.fsync(fd)
        return len(plain)

    def _read(self, name: str) -> bytes:
        with self._lock:
            begun = self._begun.pop(name, None)
        plain = None
        if begun is not None and not begun.cancel():
            # what failed ahead is judged again, by what is there now
            with suppress(DbsecError, OSError):
                plain = begun.result()
        if plain is None:
            plain = fetching.read(self._repository, name, segment_bytes=self._segment_bytes, settle_s=self._settle_s)
        self._read_ahead(name)
        return plain

    def _read_ahead(self, name: str) -> None:
        if len(name) != 24 or not self._ahead:
            return
        wanted = []
        segment = Segment.parse(name, self._segment_bytes)
        for _ in range(self._ahead):
            segment = segment.next
            wanted.append(segment.name)
        with self._lock:
            for key in set(self._begun) - set(wanted):
                self._begun.pop(key).cancel()
            for later in wanted:
                if later not in self._begun:
                    with suppress(RuntimeError):  # after the drain has begun the pool takes nothing more
                        self._begun[later] = self._pool.submit(self._read_whole, later)

    def _read_whole(self, name: str) -> bytes:
        return fetching.read_whole_object(self._repository, name, self._segment_bytes)
