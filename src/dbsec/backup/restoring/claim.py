"""Takes a folder for a restore, and tells one that a killed restore has left."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from dbsec import canonical, files
from dbsec.backup.restoring.errors import trouble
from dbsec.clock import Clock, rfc3339
from dbsec.errors import UsageError

MARKER: Final = "dbsec-restore.json"
WORK: Final = "dbsec-restore"
VERSION: Final = "PG_VERSION"  # no server starts in a folder without it
_AGAIN: Final = "the same command with --again, which empties the folder first"


class Claim:
    """A folder that is ours while a restore fills it. ``work`` is the folder inside it in which to work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / WORK
        self.begun = False

    def begin(self, backup: str, spaces: Sequence[Path], clock: Clock) -> None:
        """Note what is to be emptied where the restore ends before its time, and make the folders."""
        told = {"backup": backup, "began": rfc3339(clock.now()), "spaces": [str(space) for space in spaces]}
        marker = self.folder / MARKER
        with trouble(self.folder):
            self.begun = True
            # in place: another file would not bear the lock
            marker.write_bytes(canonical.json_bytes(told))
            files.sync_folder(self.folder)
            for folder in (self.folder, *spaces):
                files.make_folder(folder, mode=0o700)
                # whoever owns it does not look into it, nor change it, before it is whole
                if os.geteuid() == 0:
                    os.chown(folder, 0, 0)
                folder.chmod(0o700)
            self.work.mkdir(mode=0o700)


@contextmanager
def claimed(folder: Path, *, again: bool) -> Iterator[Claim]:
    """Hold an empty folder; with ``again`` one that a killed restore has left is emptied, and nothing else is.

    Locks: flock on the marker. Errors: ``UsageError`` for a folder that is not empty; ``RestoreFailed``.
    """
    marker = folder / MARKER
    fresh = not folder.exists()
    with trouble(folder):
        files.make_folder(folder, mode=0o700)
        found = {entry.name for entry in folder.iterdir()}
    if found and MARKER not in found:
        raise UsageError(f"the folder '{folder}' is not empty", hint="--to an empty folder, or one that is not there")
    with _locked(marker) as ours:
        if not ours:
            raise UsageError(f"another restore is filling '{folder}'", hint="wait for its end")
        if MARKER in found:
            with trouble(folder):
                _take_over(folder, marker, again=again)
        claim = Claim(folder)
        try:
            yield claim
        except BaseException:
            if not claim.begun:  # refused before the first byte: as it was
                marker.unlink()
                if fresh:
                    folder.rmdir()
            raise


@contextmanager
def _locked(marker: Path) -> Iterator[bool]:
    with ExitStack() as stack:
        with trouble(marker):
            ours = stack.enter_context(files.locked(marker, blocking=False))
        yield ours


def _take_over(folder: Path, marker: Path, *, again: bool) -> None:
    if (folder / VERSION).exists():
        marker.unlink()  # killed after its last act but one: the folder is whole
        raise UsageError(f"the folder '{folder}' holds a restore that is finished", hint="--to another folder")
    backup, spaces = _left(marker)
    if not again:
        raise UsageError(
            f"the folder '{folder}' holds a restore{backup} that was broken off: it does not start", hint=_AGAIN
        )
    for path in [*folder.iterdir(), *(entry for space in spaces if space.is_dir() for entry in space.iterdir())]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != marker:
            path.unlink()


def _left(marker: Path) -> tuple[str, list[Path]]:
    """Read what a restore was of, and the tablespaces' folders that it had found empty."""
    try:
        told = json.loads(marker.read_bytes())
        return f" of backup '{told['backup']}'", [Path(one) for one in told["spaces"]]
    except (ValueError, TypeError, KeyError):
        return "", []  # killed before it had written: nothing was filled
