"""What a machine tells of itself: /proc, /sys and the file system, as one process sees them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbsec import process
from dbsec.backup.at_rest.mounts import Mount, parse_mountinfo
from dbsec.errors import ProgramError


def answer(argv: Sequence[str]) -> str:
    """Return what a program says, or nothing where it is not there or fails: then nothing was seen."""
    try:
        return process.run(argv, cwd=Path("/"), timeout_s=20).strip()
    except ProgramError:
        return ""


@dataclass(frozen=True, slots=True)
class Machine:
    """``pid`` is whose mounts count: a server may have others than we have; None is our own.

    ``ask`` runs a program that only reads (zfs, dmsetup).
    """

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    pid: int | None = None
    ask: Callable[[Sequence[str]], str] = answer

    def mounts(self) -> list[Mount]:
        """Read the mounts. Errors: ``OSError`` where this process may not see the other's."""
        return parse_mountinfo(self.told(self.proc / self._who / "mountinfo"))

    def mount_of(self, path: Path) -> Mount:
        """Return what a path lies on, as the kernel answers for that very path. Errors: ``OSError``."""
        fd = os.open(self.reach(path), os.O_PATH | os.O_CLOEXEC)
        try:
            told = self.told(Path(f"/proc/self/fdinfo/{fd}"))
        finally:
            os.close(fd)
        number = next((line.split()[1] for line in told.splitlines() if line.startswith("mnt_id:")), "")
        for mount in reversed(self.mounts()):
            if str(mount.id) == number:
                return mount
        raise FileNotFoundError(f"'{path}' lies on a mount that {self.proc / self._who / 'mountinfo'} does not list")

    def reach(self, path: Path) -> Path:
        """Return where we find a path of the other process: through its root, where its mounts are others."""
        if self.pid is None or self._same_namespace():
            return path
        return self.proc / str(self.pid) / "root" / str(path).lstrip("/")

    def read(self, path: Path) -> str:
        """Return a small file's text without its last newline; empty where there is none, or we may not."""
        try:
            return self.told(path).rstrip("\n")
        except (OSError, ValueError):
            return ""

    @staticmethod
    def told(path: Path) -> str:
        """Return a file of the kernel. Errors: ``OSError``."""
        return path.read_text(encoding="utf-8", errors="surrogateescape")

    def _same_namespace(self) -> bool:
        try:
            return (self.proc / str(self.pid) / "ns/mnt").readlink() == (self.proc / "self/ns/mnt").readlink()
        except OSError:
            return True  # not ours to see: then neither are its mounts, and mounts() says so

    @property
    def _who(self) -> str:
        return "self" if self.pid is None else str(self.pid)
