"""The last acts of a restore: accounts, durability, and the names under which a server finds its files."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from dbsec import files
from dbsec.backup.restoring.claim import MARKER, VERSION, WORK
from dbsec.backup.restoring.errors import trouble

_HELD: Final = f".{VERSION}.dbsec"


def give(folders: Iterable[Path], owner: tuple[int, int]) -> None:
    """Give all files below some folders to an account; links are not followed."""
    for top in folders:
        with trouble(top):
            for _, inner, names, fd in os.fwalk(top):
                for name in (*inner, *names):
                    os.chown(name, *owner, dir_fd=fd, follow_symlinks=False)
                os.fchown(fd, *owner)


def flush(folders: Iterable[Path]) -> None:
    """Make all that was written to the file systems of some folders durable. Source: syncfs(2).

    Where the C library has no such call every file is flushed by itself.
    """
    sync = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    for folder in folders:
        with trouble(folder):
            if sync is None:
                _flush_each(folder)
                continue
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if sync(fd):
                    code = ctypes.get_errno()
                    raise OSError(code, os.strerror(code), str(folder))
            finally:
                os.close(fd)


def publish(folder: Path, whole: Path) -> None:
    """Move a whole data folder up to where it belongs; durable, and no server starts in it before the last name."""
    with trouble(folder):
        for entry in sorted(whole.iterdir()):
            entry.rename(folder / (_HELD if entry.name == VERSION else entry.name))
        for left in sorted((folder / WORK).rglob("*"), reverse=True):
            if left.is_dir() and not left.is_symlink():
                left.rmdir()
            else:
                left.unlink()
        (folder / WORK).rmdir()
        files.sync_folder(folder)
        (folder / _HELD).rename(folder / VERSION)
        files.sync_folder(folder)
        (folder / MARKER).unlink()
        files.sync_folder(folder)


def _flush_each(folder: Path) -> None:
    for top, _, names, fd in os.fwalk(folder):
        for name in names:
            one = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)
            try:
                os.fsync(one)
            finally:
                os.close(one)
        files.sync_folder(Path(top))
