"""A file system in a file: what a disk is to a lab."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dbsec import process

IMAGE_BYTES: Final = 320 << 20
_ROOT: Final = Path("/")


def missing_for_images() -> str:
    """Return why this process cannot mount a file, or nothing."""
    if os.geteuid() != 0:
        return "only root mounts"
    if not Path("/dev/loop-control").exists():
        return "the kernel has no loop devices"
    absent = [name for name in ("mkfs.ext4", "mount", "umount") if shutil.which(name, path=PATH) is None]
    return f"{absent[0]} is not installed" if absent else ""


PATH: Final = process.clean_environment(_ROOT)["PATH"]  # where a child looks, which need not be ours


def make_image(path: Path) -> None:
    """Make a private file with holes, whose blocks come as they are written."""
    with path.open("xb") as stream:
        path.chmod(0o600)
        stream.truncate(IMAGE_BYTES)


def make_ext4(device: Path, *features: str) -> None:
    """Make a file system. Errors: ``ProgramError``."""
    wanted = ("-O", ",".join(features)) if features else ()
    process.run(["mkfs.ext4", "-q", *wanted, device], cwd=_ROOT)


def mount(device: Path, point: Path, *options: str) -> None:
    """Mount a device, or a file by a loop device. Errors: ``ProgramError``, also where it did not come up."""
    wanted = ("-o", ",".join(options)) if options else ()
    process.run(["mount", "-t", "ext4", *wanted, device, point], cwd=_ROOT)


def undo(*commands: Sequence[str | Path]) -> tuple[tuple[str, ...], ...]:
    """Write commands as they are run."""
    return tuple(tuple(map(str, command)) for command in commands)
