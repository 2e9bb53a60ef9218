"""Whether there is room for a restore, asked before it begins."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from dbsec.backup.catalog import Backup
from dbsec.backup.restoring.errors import RestoreFailed, trouble
from dbsec.backup.restoring.spaces import Space


def check_room(chain: Sequence[Backup], folder: Path, spaces: Sequence[Space]) -> None:
    """Compare what will be written with what is free, by file system. Errors: ``RestoreFailed``."""
    outside = {space.oid: space.new for space in spaces if not space.inside}
    need: dict[int, int] = defaultdict(int)
    where: dict[int, Path] = {}
    for backup in chain:
        for archive in backup.archives:
            final = _there(outside.get(archive.oid, folder))
            # the links of a chain lie beside what is combined of them
            for place in (final, _there(folder)) if len(chain) > 1 else (final,):
                with trouble(place):
                    device = place.stat().st_dev
                need[device] += archive.plain_bytes
                where[device] = place
    for device, wanted in need.items():
        with trouble(where[device]):
            status = os.statvfs(where[device])
        free = status.f_bavail * status.f_frsize
        if wanted > free:
            raise RestoreFailed(
                f"'{where[device]}' has {free >> 20:,} MB free, and the restore needs {wanted >> 20:,}",
                hint=f"df -h {where[device]}; or --to a folder elsewhere",
            )


def _there(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.exists())
