"""The files of migrations under a path: folders are walked, links that lead back are not followed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from msgspec import Struct, field

from dbsec.errors import UsageError
from dbsec.migrations.script import Unread

_DEEPEST = 64
_PASSED_OVER = frozenset({"node_modules", "__pycache__", "site-packages"})


class Found(Struct):
    """What a path holds. ``sql``: files, relative to ``root``. ``revisions``: folders of Alembic, with their ``.py``.

    ``root`` is the folder that was asked for, or that of the file.
    """

    root: str
    sql: list[str] = field(default_factory=list)
    revisions: dict[str, list[str]] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)
    whole: bool = True  # a folder was asked for, not one file of it


def found_at(path: str) -> Found:
    """Look at a path. Errors: ``UsageError`` where it is not there, or is a folder without any migration."""
    try:
        mode = Path(path).stat().st_mode
    except PermissionError:
        return Found(path, unread=[_denied(path)])
    except (OSError, ValueError) as exc:
        raise UsageError(f"path '{path}' is not there", hint=f"ls -d {Path(path).parent}/*") from exc
    if not stat.S_ISDIR(mode):
        folder, name = str(Path(path).parent), Path(path).name
        if name.endswith(".py"):
            return Found(folder, revisions={folder: [path]}, whole=False)
        return Found(folder, sql=[name], whole=False)
    found = Found(path)
    _walk(path, "", (), found)
    found.revisions = {folder: files for folder, files in found.revisions.items() if files}
    if not (found.sql or found.revisions or found.unread):
        raise UsageError(
            f"folder '{path}' holds no .sql file and no Alembic revision", hint=f"find {path} -name '*.sql'"
        )
    return found


def _walk(folder: str, relative: str, above: tuple[tuple[int, int], ...], found: Found, alembic: str = "") -> None:
    try:
        state = Path(folder).stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as exc:
        found.unread.append(_denied(folder) if isinstance(exc, PermissionError) else _broken(folder, exc))
        return
    here = (state.st_dev, state.st_ino)
    if here in above:
        found.unread.append(Unread(folder, 0, "a link leads back to a folder above it", hint=f"ls -ld {folder}"))
        return
    if len(above) > _DEEPEST:
        found.unread.append(Unread(folder, 0, f"more than {_DEEPEST} folders deep"))
        return
    names = {entry.name for entry in entries}
    if {"env.py", "versions"} <= names or {"env.py", "script.py.mako"} <= names:
        alembic = folder
    for entry in entries:
        name = f"{relative}/{entry.name}" if relative else entry.name
        if _is_folder(entry):
            if not entry.name.startswith(".") and entry.name not in _PASSED_OVER:
                _walk(entry.path, name, (*above, here), found, alembic)
        elif not entry.name.endswith((".py", ".sql")) or not _is_file(entry, found):
            continue
        elif entry.name.endswith(".py"):
            if alembic or not relative:
                found.revisions.setdefault(alembic or folder, []).append(entry.path)
        elif not alembic:  # what stands beside revisions is run by them
            found.sql.append(name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str], found: Found) -> bool:
    try:
        entry.name.encode()
        if entry.is_symlink() and not Path(entry.path).exists():
            found.unread.append(Unread(entry.path, 0, "a link to a file that is not there", hint=f"ls -l {entry.path}"))
        return entry.is_file()
    except UnicodeEncodeError:
        shown = os.fsencode(entry.path).decode("utf-8", "replace")
        found.unread.append(Unread(shown, 0, "its name is not UTF-8", hint="convmv -f latin1 -t utf8 --notest FILE"))
    except OSError as exc:
        found.unread.append(_broken(entry.path, exc))
    return False


def _denied(path: str) -> Unread:
    return Unread(path, 0, "no permission to read it", hint=f"ls -ld {path}")


def _broken(path: str, exc: OSError) -> Unread:
    return Unread(path, 0, f"cannot be read: {exc.strerror}", hint=f"ls -ld {path}")


def content_of(path: str, *, most_bytes: int) -> bytes | Unread:
    """Read a file whole, or tell why not."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a Path or a stream for each of thousands takes as long
        try:
            size = os.fstat(file).st_size  # 0 of a pipe; a size to read is allocated before it is read
            content = os.read(file, size + 1) if 0 < size <= most_bytes else b""
            if not content or len(content) != size:
                with open(file, "rb", closefd=False) as stream:
                    content += stream.read(most_bytes + 1)
        finally:
            os.close(file)
    except PermissionError:
        return _denied(path)
    except OSError as exc:
        return _broken(path, exc)
    if len(content) > most_bytes:
        return Unread(path, 0, f"larger than {most_bytes >> 20} MiB", hint=f"split -C 32M {path}")
    return content
