"""Where the load sends: a share for each base URL, in a file that the load reads again whenever it changes."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dbsec import files


def write(path: Path, shares: Mapping[str, float]) -> None:
    """Ask to send this share of the requests to each base URL."""
    files.write_atomic(path, json.dumps(dict(shares)))


def in_force(path: Path) -> bool:
    """Tell whether the load has read what was written last; it looks five times a second."""
    try:
        return _seen(path).read_text(encoding="utf-8") == _stamp(path)
    except FileNotFoundError:
        return False


@dataclass(slots=True)
class Routes:
    """The shares as the load knows them; ``refresh`` looks whether they have changed.

    Which request goes where is drawn apart from the plan's seed: the same requests are sent, wherever they go.
    """

    path: Path
    _shares: dict[str, float] = field(default_factory=dict)
    _read: str = ""
    _random: random.Random = field(default_factory=random.Random)

    def refresh(self) -> None:
        """Read the file where it is another one than last time, and say so."""
        stamp = _stamp(self.path)
        if stamp != self._read:
            self._shares = json.loads(self.path.read_bytes())
            self._read = stamp
            files.write_atomic(_seen(self.path), stamp)

    def draw(self) -> str:
        """Choose where the next request goes."""
        (url,) = self._random.choices(list(self._shares), list(self._shares.values()))
        return url


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_ino} {stat.st_mtime_ns}"


def _seen(path: Path) -> Path:
    return path.with_suffix(".seen")
