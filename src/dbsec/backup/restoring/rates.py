"""How fast restores of this host have been: a note of the last one, from which the next is estimated."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dbsec import canonical, files
from dbsec.backup.catalog import Layout


@dataclass(frozen=True, slots=True)
class Rates:
    """Plain bytes a second by layout, all of a restore included but the replay of WAL."""

    bytes_s: dict[str, float]

    def seconds(self, layout: Layout, plain_bytes: int) -> float | None:
        """Estimate; None where nothing was measured."""
        rate = self.bytes_s.get(layout, 0.0)
        return plain_bytes / rate if rate > 0 else None


def read_rates(note: Path) -> Rates:
    """Read the note; without one, or with one that cannot be read, nothing was measured."""
    with suppress(OSError, ValueError, AttributeError, TypeError):
        told = json.loads(note.read_text())["plain_bytes_s"]
        return Rates({str(layout): float(rate) for layout, rate in told.items()})
    return Rates({})


def write_rates(note: Path, layout: Layout, bytes_s: float) -> None:
    """Keep what was measured. Errors: ``OSError``."""
    told = {**read_rates(note).bytes_s, str(layout): round(bytes_s)}
    files.make_folder(note.parent, mode=0o700)
    files.write_atomic(note, canonical.json_bytes({"plain_bytes_s": told}))
