"""Where the tablespaces of a backup go, and how the restored server finds them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dbsec import files
from dbsec.backup.catalog import Tablespace
from dbsec.backup.restoring.errors import trouble
from dbsec.errors import UsageError

MAP: Final = "tablespace_map"
_OPTION: Final = "--tablespace-mapping"


@dataclass(frozen=True, slots=True)
class Space:
    """A tablespace and its new folder; ``inside`` is one that lies in the data folder (a relative path)."""

    oid: int
    old: str
    new: Path

    @property
    def inside(self) -> bool:
        return not self.old.startswith("/")


def placed(spaces: Sequence[Tablespace], remap: Mapping[str, str], folder: Path) -> tuple[Space, ...]:
    """Decide where each goes; ``remap`` is old folder -> new one. Errors: ``UsageError``, with the option to give."""
    if unknown := sorted(set(remap) - {space.path for space in spaces}):
        known = ", ".join(f"'{space.path}'" for space in spaces) or "none"
        raise UsageError(f"the backup has no tablespace '{unknown[0]}'; it has {known}")
    found = [
        Space(space.oid, space.path, Path(remap.get(space.path, space.path) or f"pg_tblspc/{space.oid}"))
        for space in spaces
    ]
    outside = [space for space in found if not space.inside]
    for space in outside:
        _check(space, folder, told=space.old in remap)
    new = [space.new for space in outside]
    for space in outside:
        if any(other is not space.new and (other == space.new or other in space.new.parents) for other in new):
            raise UsageError(f"two tablespaces would lie in '{space.new}'", hint=f"{_OPTION} {space.old}=NEW")
    return tuple(found)


def _check(space: Space, folder: Path, *, told: bool) -> None:
    hint = f"{_OPTION} {space.old}=NEW, an empty folder or one that can be made"
    if not space.new.is_absolute() or ".." in space.new.parts or "\n" in str(space.new):
        raise UsageError(f"'{space.new}' is no absolute path for a tablespace", hint=hint)
    if space.new == folder or folder in space.new.parents or space.new in folder.parents:
        raise UsageError(f"the tablespace's folder '{space.new}' and '{folder}' lie in each other", hint=hint)
    try:
        taken = space.new.is_symlink() or (space.new.exists() and (not space.new.is_dir() or any(space.new.iterdir())))
    except OSError as exc:
        raise UsageError(f"cannot look into '{space.new}': {exc.strerror}", hint=hint) from exc
    if taken:
        whose = "" if told else ": is it the original's?"
        raise UsageError(f"the folder '{space.new}' of a tablespace is not empty{whose}", hint=hint)
    above = next(path for path in (space.new, *space.new.parents) if path.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"the folder '{space.new}' of a tablespace cannot be made", hint=hint)


def make_links(data: Path, places: Mapping[int, Path]) -> None:
    """Make the links of tablespaces in a data folder: oid -> its folder."""
    links = data / "pg_tblspc"
    if places:
        files.make_folder(links, mode=0o700)
    for oid, place in places.items():
        with trouble(links / str(oid)):
            (links / str(oid)).symlink_to(place)


def write_map(data: Path, spaces: Sequence[Space]) -> None:
    """Write ``tablespace_map`` for the new places: recovery makes the links anew, by what it says.

    Source: PostgreSQL, ``access/transam/xlogrecovery.c``, read_tablespace_map: a backslash quotes.
    """
    if not (data / MAP).exists():
        return
    lines = [f"{space.oid} {_quoted(str(space.new))}\n" for space in spaces if not space.inside]
    with trouble(data / MAP):
        if lines:
            files.write_atomic(data / MAP, "".join(lines))
        else:
            (data / MAP).unlink()


def _quoted(path: str) -> str:
    return path.replace("\\", "\\\\").replace("\r", "\\\r")
