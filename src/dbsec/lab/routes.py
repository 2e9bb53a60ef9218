"""Where the load sends: a share for each base URL, in a file that the load reads again whenever it changes."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dbsec import files


def write(path: Path, shares: Mapping[str, float]) -> None:
    """Send this share of the requests to each base URL from now on, that is within 0.2 s."""
    files.write_atomic(path, json.dumps(dict(shares)))


@dataclass(slots=True)
class Routes:
    """The shares as the load knows them; ``refresh`` looks whether they have changed.

    Which request goes where is drawn apart from the plan's seed: the same requests are sent, wherever they go.
    """

    path: Path
    _shares: dict[str, float] = field(default_factory=dict)
    _stamp: tuple[int, int] = (0, 0)
    _random: random.Random = field(default_factory=random.Random)

    def refresh(self) -> None:
        """Read the file where it is another one than last time."""
        stat = self.path.stat()
        stamp = (stat.st_ino, stat.st_mtime_ns)
        if stamp != self._stamp:
            self._shares = json.loads(self.path.read_bytes())
            self._stamp = stamp

    def draw(self) -> str:
        """Choose where the next request goes."""
        (url,) = self._random.choices(list(self._shares), list(self._shares.values()))
        return url
