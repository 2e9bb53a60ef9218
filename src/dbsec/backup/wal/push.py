"""Puts a file that PostgreSQL archives into the repository, once, and only what its name says."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from dbsec.backup.errors import ContentConflict
from dbsec.backup.opening import MOST_SEGMENT_BYTES
from dbsec.backup.repository import Put, Repository, read_marker
from dbsec.backup.wal.names import object_name
from dbsec.backup.wal.pages import WrongSegment, check_segment
from dbsec.errors import UsageError

_MOST_PARTIALS = 100


def push_file(repository: Repository, path: Path) -> Put:
    """Seal and put a file of ``pg_wal`` under its name; the store has acknowledged it when this returns.

    The same content again is a success. Errors: ``UsageError`` for a name that PostgreSQL does not archive or a file
    that cannot be read; ``WrongCluster`` and ``WrongSegment``: nothing was put; those of ``Repository.put``.
    """
    object_name(path.name)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise UsageError(f"cannot read '{path}': {exc.strerror}") from exc
    try:
        return push(repository, path.name, read_whole(fd, path.name))
    finally:
        os.close(fd)


def push(repository: Repository, name: str, raw: bytes, *, segment_bytes: int = 0) -> Put:
    """Put the bytes of a file that has this name. ``segment_bytes`` 0: asked of the repository. Errors: as above."""
    target = object_name(name)
    if not name.endswith((".history", ".backup")):
        segment_bytes = segment_bytes or read_marker(repository.store).segment_bytes
        check_segment(name, raw, system=repository.system, segment_bytes=segment_bytes)
    timeline = int(name[:8], 16)
    if name.endswith(".partial"):
        return _put_partial(repository, target, raw, timeline)
    return repository.put(target, raw, timeline=timeline)


def read_whole(fd: int, name: str) -> bytes:
    """Read an open file of at most a segment. Errors: ``WrongSegment``, ``UsageError``."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"'{name}' is no regular file")
    if status.st_size > MOST_SEGMENT_BYTES:
        raise WrongSegment(f"'{name}' has {status.st_size} bytes: no WAL file is so long")
    raw = os.pread(fd, status.st_size, 0)
    while len(raw) < status.st_size and (more := os.pread(fd, status.st_size - len(raw), len(raw))):
        raw += more
    if len(raw) != status.st_size:
        raise WrongSegment(f"'{name}' became shorter while it was read")
    return raw


def _put_partial(repository: Repository, target: str, raw: bytes, timeline: int) -> Put:
    """Put a ``.partial``, beside one of other content: of two promotions from one segment each leaves its own.

    PostgreSQL never asks for one, and an archiver that is refused one archives nothing after it.
    """
    for number in range(1, _MOST_PARTIALS):
        name = target if number == 1 else f"{target}@{number}"
        try:
            return repository.put(name, raw, timeline=timeline)
        except ContentConflict:
            continue
    raise ContentConflict(target)
