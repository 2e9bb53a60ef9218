"""Files that are whole or absent: atomic writes with fsync, and a lock that dies with its process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """Replace a file as one act: a reader sees the old bytes or the new ones, also after power is lost.

    The temporary file is made with ``mode`` before the first byte, so a key is never readable for a moment.
    ``owner`` is (uid, gid). A device or a pipe is written to, for root could replace ``/dev/null`` itself.
    Errors: ``OSError``; the old file is then untouched.
    """
    raw = data.encode() if isinstance(data, str) else data
    if _is_special(path):
        path.write_bytes(raw)
        return
    with replacing(path, mode=mode, owner=owner) as stream:
        stream.write(raw)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o600, owner: tuple[int, int] | None = None) -> Iterator[BinaryIO]:
    """Write a file in pieces; it takes the old one's place, durable, when the block ends, and never if it raises.

    Parameters and errors are those of ``write_atomic``, but for a device or a pipe, which it would replace.
    """
    import secrets  # brings hmac and random: most commands write nothing

    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(fd, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            if owner is not None:
                os.fchown(stream.fileno(), *owner)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _is_special(path: Path) -> bool:
    """Tell what is no file to be replaced; ``/dev/stdout`` is a link to whatever stdout is."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return False
    return path.parent == Path("/dev") or not (stat.S_ISREG(kind) or stat.S_ISLNK(kind) or stat.S_ISDIR(kind))


def make_folder(folder: Path, *, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Make a folder and what is missing above it, with this mode whatever the umask; one that is there is left alone.

    ``owner`` is (uid, gid) of the last one.
    """
    for path in reversed([folder, *folder.parents]):
        if not path.exists():
            path.mkdir(mode=0o700)
            path.chmod(mode)
            if owner is not None and path == folder:
                os.chown(path, *owner)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def locked(path: Path, *, blocking: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on a file while the block runs; yields False where another process holds it.

    Locks: flock(2) on ``path``, which is made with mode 0600 and stays. The kernel frees it when the holder dies.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(fd)
