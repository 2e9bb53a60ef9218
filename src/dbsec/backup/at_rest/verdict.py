"""The words of a look at a disk: what was seen, from where, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """``MEMORY``: it reaches no disk. What was not seen is ``UNKNOWN``, never encrypted."""

    ENCRYPTED = "encrypted"
    MEMORY = "not on a disk"
    CLEAR = "not encrypted"
    UNKNOWN = "cannot be told"


_ORDER = (Verdict.CLEAR, Verdict.UNKNOWN, Verdict.ENCRYPTED, Verdict.MEMORY)


@dataclass(frozen=True, slots=True)
class Seen:
    """``how`` is what it lies on, from the file system down; ``source`` is where that was read, ``check`` a command."""

    verdict: Verdict
    how: str
    source: str = ""
    check: str = ""

    def over(self, what: str) -> Seen:
        """Put a layer that does not encrypt on top."""
        return Seen(self.verdict, f"{what} on {self.how}", self.source, self.check)


def weakest(seen: Iterable[Seen]) -> Seen:
    """Fold the parts of one device: it is encrypted where all of them are."""
    parts = sorted(seen, key=lambda one: _ORDER.index(one.verdict))
    if not parts:
        return Seen(Verdict.UNKNOWN, "nothing that can be seen")
    first = parts[0]
    mixed = len({one.verdict for one in parts}) > 1
    return Seen(first.verdict, f"partly {first.how}" if mixed else first.how, first.source, first.check)
