"""What stands in the way of a run: refused, or not known well enough to allow it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Block(StrEnum):
    """Why a migration is not run."""

    EDITED = "edited-file"
    DELETED = "deleted-file"
    OUT_OF_ORDER = "out-of-order"
    INTERRUPTED = "interrupted"
    LINT = "lint"
    BLOCKING = "blocking"
    READ_ONLY = "read-only"
    NOT_INSTALLED = "not-installed"
    NOT_VERIFIED = "backfill-not-verified"
    OLD_RELEASE = "old-release-seen"
    UNNAMED_CLIENT = "unnamed-client"
    PREPARED = "prepared-transaction"
    NOT_OBSERVED = "not-observed"
    DISK = "disk"
    CHECK = "check-failed"
    CANARY = "canary"
    NO_WAY_BACK = "no-way-back"
    ROLL_FORWARD = "roll-forward"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """``unknown``: nobody could tell, which is no pass. ``forcible``: a reason given with --force goes past it."""

    block: Block
    message: str
    hint: str = ""
    number: int | None = None
    unknown: bool = False
    forcible: bool = False

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "block": str(self.block)}
