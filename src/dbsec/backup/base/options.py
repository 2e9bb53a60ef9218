"""What whoever takes a base backup may choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from dbsec.errors import UsageError

Engine = Literal["protocol", "ranges"]
Checkpoint = Literal["fast", "spread"]
Compress = Literal["auto", "server", "client"]
MOST_LABEL: Final = 200


@dataclass(frozen=True, slots=True)
class TakeOptions:
    """``parent``: the backup that an incremental one builds on, by default the newest. ``workers`` seal and put.

    ``rate_bytes_s`` bounds what the server sends, after its compression. ``compress``: who packs; ``auto`` asks the
    server first, and packs here where it cannot. Errors: ``UsageError``.
    """

    label: str = ""
    incremental: bool = False
    parent: str = ""
    engine: Engine = "protocol"
    workers: int = 2
    rate_bytes_s: int | None = None
    checkpoint: Checkpoint = "fast"
    compress: Compress = "auto"

    def __post_init__(self) -> None:
        # PostgreSQL writes the label into a line of backup_label, as it is
        if len(self.label) > MOST_LABEL or not self.label.isprintable():
            raise UsageError(f"a label is one line of at most {MOST_LABEL} characters")
        if self.workers < 1:
            raise UsageError("a backup needs one worker at least")
        if self.rate_bytes_s is not None and self.rate_bytes_s <= 0:
            raise UsageError("a rate is more than nothing")
