"""One folder that a restore fills: files and folders below it and nowhere else, whatever an archive names."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Final

from dbsec.backup.base.members import Member, inside
from dbsec.backup.errors import Tampered
from dbsec.backup.restoring.errors import trouble

CONTROL: Final = "global/pg_control"
SPACES: Final = "pg_tblspc"
_LINK: Final = re.compile(r"pg_tblspc/\d{1,10}")
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
# sync_file_range(2), of Linux alone; it never says that anything is durable
_SYNC_RANGE: Final = getattr(ctypes.CDLL(None), "sync_file_range", None)
_BEGIN: Final = 2


class Folder:
    """A new folder; safe in threads. Until ``close`` it is ours alone (0700), and all of it is reached from its
    descriptor: whoever owns the folder above can move it, and lead us nowhere else.

    ``archive`` is what its errors name. ``pg_control``, without which no server starts, is kept back until
    ``release``. Errors of its use: ``Tampered``; ``OSError`` is told by ``errors.trouble``.
    """

    def __init__(self, path: Path, archive: str) -> None:
        self.path = path
        self._archive = archive
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._made = {"."}
        self._files: set[str] = set()
        self._lock = Lock()
        self._control: dict[int, bytes] = {}

    def take(self, member: Member) -> bool:
        """Make room for a member; True for a file whose bytes are to follow.

        Links are not made: those of tablespaces are made by who knows their new places, and others no server sends.
        """
        path = self._checked(member)
        if member.type == "d":
            self._make_folder(path)
            return False
        if member.type == "l":
            return False
        with self._lock:
            if path in self._files or path in self._made:
                raise Tampered(self._archive, f"it holds '{path}' twice")
            self._files.add(path)
        self._make_folder(str(PurePosixPath(path).parent))
        if path != CONTROL:
            with trouble(self.path / path):
                # not "exclusive" alone: what is there already was not made by us
                os.close(os.open(path, _NEW | os.O_EXCL, 0o600, dir_fd=self._fd))
        return True

    @contextmanager
    def writing(self, path: str) -> Iterator[_Open]:
        """Open a file that was taken, to write any of its bytes; nothing is durable before the end."""
        if path == CONTROL:
            yield _Held(self._control)
            return
        with trouble(self.path / path):
            fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
            try:
                yield _Open(fd)
            finally:
                os.close(fd)

    def release(self) -> None:
        """Write what was kept back: from now on the folder is whole."""
        if self._control:
            raw = b"".join(self._control[at] for at in sorted(self._control))
            with trouble(self.path / CONTROL):
                fd = os.open(CONTROL, _NEW | os.O_EXCL, 0o600, dir_fd=self._fd)
                with os.fdopen(fd, "wb") as stream:
                    stream.write(raw)
                    stream.flush()
                    os.fsync(fd)
            self._control.clear()

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._fd)

    def _checked(self, member: Member) -> str:
        path = str(PurePosixPath(inside(self._archive, member.path)))
        if member.type == "l" and not _LINK.fullmatch(path):
            raise Tampered(self._archive, f"it holds a link '{path}', which is none of a tablespace")
        if member.type not in ("f", "d", "l") or member.size < 0 or (path == "." and member.type != "d"):
            raise Tampered(self._archive, f"it holds '{path}' of a kind that no server sends")
        return path

    def _make_folder(self, path: str) -> None:
        with self._lock:
            if path in self._made:
                return
            for above in reversed(PurePosixPath(path).parents):
                self._make_one(str(above))
            self._make_one(path)

    def _make_one(self, path: str) -> None:
        if path in self._made:
            return
        if path in self._files:
            raise Tampered(self._archive, f"'{path}' is a file in it, and a folder")
        with trouble(self.path / path):
            os.mkdir(path, 0o700, dir_fd=self._fd)
        self._made.add(path)


class _Open:
    """A file that is written."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, offset: int, data: memoryview) -> None:
        while data:
            done = os.pwrite(self._fd, data, offset)
            offset, data = offset + done, data[done:]

    def hasten(self, offset: int, size: int) -> None:
        """Let the disk begin with bytes while others are unpacked; what is durable is decided at the end."""
        if _SYNC_RANGE is not None:
            _SYNC_RANGE(self._fd, ctypes.c_int64(offset), ctypes.c_int64(size), _BEGIN)


class _Held(_Open):
    """The file that is kept back."""

    def __init__(self, parts: dict[int, bytes]) -> None:
        self._parts = parts

    def write(self, offset: int, data: memoryview) -> None:
        self._parts[offset] = bytes(data)

    def hasten(self, offset: int, size: int) -> None:
        return
