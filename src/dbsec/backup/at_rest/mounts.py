"""Mounts as the kernel tells them: /proc/PID/mountinfo."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line. ``number`` is (major, minor) of the device; major 0 is none that the kernel has as a block device.

    ``options`` are those of the file system, not those of the mount.
    """

    id: int
    number: tuple[int, int]
    root: str
    point: str
    kind: str
    source: str
    options: tuple[str, ...]

    def option(self, name: str) -> str | None:
        """Return the value of an option, empty where it has none; None where it is not set."""
        for one in self.options:
            key, _, value = one.partition("=")
            if key == name:
                return value
        return None


def parse_mountinfo(text: str) -> list[Mount]:
    """Read the lines, later mounts last. Source: proc(5), /proc/pid/mountinfo."""
    return [_parsed(line) for line in text.splitlines() if " - " in line]


def _parsed(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    ident, _, number, root, point, *_ = before.split(" ")
    kind, source, options = [*after.split(" ", 2), "", ""][:3]
    major, _, minor = number.partition(":")
    told = tuple(_unescaped(one) for one in options.split(",") if one)
    return Mount(
        int(ident), (int(major), int(minor)), _unescaped(root), _unescaped(point), kind, _unescaped(source), told
    )


def _unescaped(text: str) -> str:
    """Undo the kernel's octal escapes of blanks and backslashes, byte by byte."""
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)


def below(mounts: list[Mount], folder: str) -> list[Mount]:
    """Return the mounts under a folder, not the one it lies on itself."""
    start = folder.rstrip("/") + "/"
    return [one for one in mounts if one.point.startswith(start)]
