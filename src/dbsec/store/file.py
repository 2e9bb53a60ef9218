"""Objects as files of one folder, each durable, with its name, before it is acknowledged."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dbsec.store.errors import ObjectExists, ObjectMissing, StoreFull, StoreRefused, StoreUnavailable
from dbsec.store.port import ObjectInfo, check_name, check_size

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_INSIDE: Final = _FOLDER | os.O_NOFOLLOW
_PART: Final = re.compile(r"\.[0-9a-f]{16}\.part")
_OF_THE_DISK: Final = "lost+found"  # what ext4 keeps at the root of a file system; no object has such a name


class FileStore:
    """A folder that must be there: one that is missing may be a disk that is not mounted, and is never made.

    No symbolic link in it is followed: it is refused, also by a listing, for what lies behind it would be missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, data: bytes) -> None:
        with self._trouble(name), self._parent(name, make=True) as (parent, last):
            part = f".{secrets.token_hex(8)}.part"
            try:
                _write(part, data, parent)
                # a link fails where the name exists, where a rename would overwrite it
                os.link(part, last, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
            except FileExistsError:
                os.fsync(parent)  # whoever made it may have been killed before its name was durable
                raise ObjectExists(name) from None
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(part, dir_fd=parent)
            os.fsync(parent)

    def get(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        with self._trouble(name), self._open(name) as (fd, whole):
            left = max(0, whole - offset) if size is None else min(size, max(0, whole - offset))
            check_size(name, left)
            pieces = []
            while left > 0 and (piece := os.pread(fd, left, offset)):
                pieces.append(piece)
                left, offset = left - len(piece), offset + len(piece)
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        folder, _, _ = prefix.rpartition("/")
        with self._trouble(prefix or "."):
            try:
                start = self._descend(folder.split("/") if folder else [])
            except (FileNotFoundError, NotADirectoryError):
                if not self._folder.is_dir():
                    raise
                return
            yield from self._walk(start, f"{folder}/" if folder else "", prefix, after)

    def delete(self, name: str) -> None:
        with self._trouble(name), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            with self._parent(name) as (parent, last):
                os.unlink(last, dir_fd=parent)
                os.fsync(parent)
            return
        self.check_there()

    def head(self, name: str) -> ObjectInfo:
        with self._trouble(name), self._parent(name) as (parent, last):
            return _info(name, os.stat(last, dir_fd=parent, follow_symlinks=False))

    def sweep(self, before: datetime) -> int:
        """Delete what killed writers have left before a moment: hidden files, which no listing shows.

        Returns how many there were. Errors: those of ``ObjectStore.delete``.
        """
        swept = 0
        with self._trouble("."):
            for _, _, files, fd in os.fwalk(self._folder):
                for file in files:
                    if _PART.fullmatch(file) and os.stat(file, dir_fd=fd).st_mtime < before.timestamp():
                        with suppress(FileNotFoundError):
                            os.unlink(file, dir_fd=fd)
                            swept += 1
        return swept

    def check_there(self) -> None:
        """Refuse a folder that is missing. Errors: ``StoreUnavailable``."""
        if not self._folder.is_dir():
            with self._trouble("."):
                raise FileNotFoundError(errno.ENOENT, "is not there", str(self._folder))

    def _walk(self, fd: int, at: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """Go through a folder, and close it, in the order of full names, where ``/`` is a character like others."""
        try:
            with os.scandir(fd) as scan:
                parts = [e.name + "/" * e.is_dir(follow_symlinks=False) for e in scan if not e.name.startswith(".")]
            parts.sort()
            for part in parts:
                name = at + part
                if part.endswith("/"):
                    inside = name.startswith(prefix) or prefix.startswith(name)
                    if inside and (name > after or after.startswith(name)) and name != f"{_OF_THE_DISK}/":
                        yield from self._walk(os.open(part[:-1], _INSIDE, dir_fd=fd), name, prefix, after)
                elif name.startswith(prefix) and name > after:
                    with suppress(FileNotFoundError):  # deleted meanwhile
                        yield _info(name, os.stat(part, dir_fd=fd, follow_symlinks=False))
        finally:
            os.close(fd)

    @contextmanager
    def _parent(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder of an object and return it with the object's name in it."""
        *parts, last = check_name(name).split("/")
        fd = self._descend(parts, make=make)
        try:
            yield fd, last
        finally:
            os.close(fd)

    def _descend(self, parts: Sequence[str], *, make: bool = False) -> int:
        fd = os.open(self._folder, _FOLDER)
        try:
            for at, part in enumerate(parts):
                inner = _enter(fd, part, "/".join(parts[: at + 1]), make=make)
                os.close(fd)
                fd = inner
        except BaseException:
            os.close(fd)
            raise
        return fd

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[int, int]]:
        """Open an object and return it with its size; what is no file, as a pipe, would block."""
        with self._parent(name) as (parent, last):
            _info(name, os.stat(last, dir_fd=parent, follow_symlinks=False))
            fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
            try:
                yield fd, os.fstat(fd).st_size
            finally:
                os.close(fd)

    @contextmanager
    def _trouble(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            text = f"'{name}' in '{self._folder}': {exc.strerror}"
            if isinstance(exc, FileNotFoundError | NotADirectoryError) and self._folder.is_dir():
                raise ObjectMissing(name) from exc
            if exc.errno in _FULL:
                raise StoreFull(text, hint=f"df -h {self._folder}") from exc
            if exc.errno in _REFUSED:
                raise StoreRefused(text, hint=f"ls -ld {self._folder}") from exc
            raise StoreUnavailable(text, hint=f"ls -ld {self._folder}") from exc


def _enter(parent: int, part: str, name: str, *, make: bool) -> int:
    while True:
        try:
            return os.open(part, _INSIDE, dir_fd=parent)
        except NotADirectoryError:
            _info(name, os.stat(part, dir_fd=parent, follow_symlinks=False))
            raise
        except FileNotFoundError:
            if not make:
                raise
        with suppress(FileExistsError):
            os.mkdir(part, mode=0o700, dir_fd=parent)
        os.fsync(parent)


def _write(part: str, data: bytes, parent: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(part, flags, 0o600, dir_fd=parent)
    try:
        with memoryview(data) as rest:
            done = 0
            while done < len(rest):
                done += os.write(fd, rest[done:])
        os.fsync(fd)
    finally:
        os.close(fd)


def _info(name: str, status: os.stat_result) -> ObjectInfo:
    """Return what a listing shows. Errors: ``FileNotFoundError`` for a folder; ``StoreRefused`` for a link, a pipe."""
    if stat.S_ISDIR(status.st_mode):
        raise FileNotFoundError(errno.ENOENT, "is a folder", name)
    if not stat.S_ISREG(status.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no file"
        raise StoreRefused(f"'{name}' is {what}, which no object is", hint="move what is behind it into the store")
    tag = f"{status.st_ino}-{status.st_mtime_ns}-{status.st_ctime_ns}"
    return ObjectInfo(name, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC), tag)
