"""Which files of a data folder belong into a base backup, by the rules of the server's own BASE_BACKUP.

Source: PostgreSQL, ``backup/basebackup.c`` (excludeDirContents, excludeFiles, sendDir), "Making a Base Backup".
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dbsec.backup.base.members import Member
from dbsec.backup.errors import BackupError

CONTROL: Final = "global/pg_control"
SPACES: Final = "pg_tblspc"
_EMPTIED: Final = frozenset(
    {"pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"}
)
_WAL_FOLDERS: Final = ("pg_wal/archive_status", "pg_wal/summaries")
# whoever restores writes signals and a label of their own
_LEFT_OUT: Final = frozenset(
    {
        *("postmaster.pid", "postmaster.opts", "postgresql.auto.conf.tmp", "current_logfiles.tmp"),
        *("backup_label", "backup_label.old", "tablespace_map", "tablespace_map.old", "backup_manifest"),
        *("recovery.signal", "standby.signal"),
    }
)
_TEMPORARY: Final = ("pgsql_tmp", "pg_internal.init", ".DS_Store")
_RELATION: Final = re.compile(r"(\d+)(?:_(fsm|vm|init))?(?:\.(\d+))?")
_TEMPORARY_RELATION: Final = re.compile(r"t\d+_\d+(?:_[a-z]+)?(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Found:
    """A file as the listing saw it; ``first_block`` is the number of its first page, None where it has no pages."""

    path: str
    size: int
    mode: int
    mtime: int
    first_block: int | None = None


@dataclass(slots=True)
class Listing:
    """``others`` are folders and links, above before below; ``odd`` are paths of no kind that a backup holds."""

    files: list[Found] = field(default_factory=list)
    others: list[Member] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)


def list_data(root: Path, *, segment_blocks: int) -> Listing:
    """List a data folder, without the content of tablespaces; pg_control is left to the caller, who reads it last."""
    listing = Listing()
    _walk(_Walk(root, segment_blocks, listing), "")
    return listing


def list_space(root: Path, version_folder: str, *, segment_blocks: int) -> Listing:
    """List a tablespace: only this server's folder in it, for others may lie beside."""
    listing = Listing()
    status = (root / version_folder).lstat()
    listing.others.append(Member(version_folder, "d", stat.S_IMODE(status.st_mode), mtime=int(status.st_mtime)))
    _walk(_Walk(root, segment_blocks, listing, space=True), version_folder)
    return listing


@dataclass(frozen=True, slots=True)
class _Walk:
    root: Path
    segment_blocks: int
    listing: Listing
    space: bool = False

    def holds_relations(self, folder: str) -> bool:
        """Tell whether a folder is a database's, whose relations may be unlogged or temporary."""
        above, _, name = folder.rpartition("/")
        return name.isdigit() and (bool(above) if self.space else above == "base")


def _walk(walk: _Walk, folder: str) -> None:
    entries = _entries(walk, folder)
    database = walk.holds_relations(folder)
    unlogged = {
        match[1] for name in entries if database and (match := _RELATION.fullmatch(name)) and match[2] == "init"
    }
    for name, (entry, status) in sorted(entries.items()):
        path = f"{folder}/{name}" if folder else name
        if _left_out(name, top=not folder and not walk.space) or path == CONTROL:
            continue
        if database and _TEMPORARY_RELATION.fullmatch(name):
            continue
        if stat.S_ISREG(status.st_mode):
            match = _RELATION.fullmatch(name) if database or folder == "global" else None
            if not (match and match[1] in unlogged and match[2] != "init"):
                walk.listing.files.append(_found(path, status, match, walk.segment_blocks))
        else:
            _enter(walk, path, entry, status)


def _enter(walk: _Walk, path: str, entry: os.DirEntry[str], status: os.stat_result) -> None:
    """Take a folder or a link; what the server keeps only while it runs stays behind, its folder does not."""
    others, mtime = walk.listing.others, int(status.st_mtime)
    top = not walk.space and "/" not in path
    if top and (path in _EMPTIED or path == "pg_wal"):
        # either may be a link to another disk: restored, it is a folder
        mode = stat.S_IMODE(entry.stat().st_mode)
        below = [one for one in _WAL_FOLDERS if path == "pg_wal" and (walk.root / one).is_dir()]
        others += [Member(one, "d", mode, mtime=mtime) for one in (path, *below)]
    elif stat.S_ISDIR(status.st_mode):
        others.append(Member(path, "d", stat.S_IMODE(status.st_mode), mtime=mtime))
        _walk(walk, path)
    elif stat.S_ISLNK(status.st_mode) and not walk.space and path.rpartition("/")[0] == SPACES:
        others.append(Member(path, "l", 0o777, mtime=mtime, link=_text(str(Path(entry.path).readlink()))))
    else:
        walk.listing.odd.append(path)


def _entries(walk: _Walk, folder: str) -> dict[str, tuple[os.DirEntry[str], os.stat_result]]:
    found = {}
    try:
        with os.scandir(walk.root / folder) as scan:
            for entry in scan:
                try:
                    found[_text(entry.name)] = (entry, entry.stat(follow_symlinks=False))
                except FileNotFoundError:  # dropped meanwhile, as WAL will tell
                    continue
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise BackupError(
            f"cannot read '{walk.root / folder}': {exc.strerror}", hint="run as the account of the server"
        ) from exc
    return found


def _found(path: str, status: os.stat_result, match: re.Match[str] | None, segment_blocks: int) -> Found:
    first = int(match[3] or 0) * segment_blocks if match else None
    return Found(path, status.st_size, stat.S_IMODE(status.st_mode), int(status.st_mtime), first)


def _left_out(name: str, *, top: bool) -> bool:
    return name.startswith(_TEMPORARY) or (top and name in _LEFT_OUT)


def _text(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise BackupError(f"a file has the name {os.fsencode(name)!r}, which is no UTF-8", hint="rename it") from exc
    return name


def links(others: Iterable[Member]) -> dict[int, str]:
    """Return the tablespaces that a listing has links to: oid -> folder."""
    return {int(one.path.rpartition("/")[2]): one.link for one in others if one.type == "l"}
