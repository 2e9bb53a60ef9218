"""What a verification found, as counts and keys: never a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dbsec.backfill.python_rows import Key

SHOWN = 100
MODULUS = 1 << 64


@dataclass(frozen=True, slots=True)
class Judged:
    """What one look at a range found. ``rows`` are those that the job is about, ``outside`` the others.

    ``missed``: still needed by ``where``; ``null``: NULL where it must not be; ``wrong``: any other value than it must
    be. ``empty``: rows for which the expression itself gives NULL.
    """

    rows: int
    outside: int
    empty: int
    checksum: int
    missed: Sequence[Key] = ()
    null: Sequence[Key] = ()
    wrong: Sequence[Key] = ()

    @property
    def keys(self) -> list[Key]:
        """The keys of all that is not right."""
        return [*self.missed, *self.null, *self.wrong]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A row that is not as it must be, by its key as JSON writes it; ``sort`` is missed, null or wrong."""

    key: Key
    sort: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What a verification found; of mismatches the first hundred are named.

    ``rows``: those that the job is about, ``outside``: the others. ``empty``: rows whose expression gives NULL: no
    mismatch, but SET NOT NULL will not have it. ``changed_ranges``: ranges with another checksum than last time.
    """

    name: str
    digest: str
    rows: int = 0
    outside: int = 0
    empty: int = 0
    missed: int = 0
    null: int = 0
    wrong: int = 0
    repaired: int = 0
    ranges: int = 0
    changed_ranges: int = 0
    checksum: str = ""
    seconds: float = 0.0
    mismatches: tuple[Mismatch, ...] = ()

    @property
    def off(self) -> int:
        """How many rows are not as they must be."""
        return self.missed + self.null + self.wrong

    @property
    def clean(self) -> bool:
        return self.off == 0

    def to_json(self) -> dict[str, Any]:
        """Return counts and checksum; keys stay out of the record."""
        return {name: value for name, value in asdict(self).items() if name != "mismatches"}


@dataclass(slots=True)
class Tally:
    """The counts of all ranges so far."""

    found: Verification
    checksum: int = 0
    named: list[Mismatch] = field(default_factory=list)

    def add(self, judged: Judged, *, changed: bool, repaired: int) -> None:
        sorts = {"missed": judged.missed, "null": judged.null, "wrong": judged.wrong}
        for sort, keys in sorts.items():
            self.named += [Mismatch(tuple(key), sort) for key in keys[: SHOWN - len(self.named)]]
        self.checksum = (self.checksum + judged.checksum) % MODULUS
        self.found = replace(
            self.found,
            **{name: getattr(self.found, name) + getattr(judged, name) for name in ("rows", "outside", "empty")},
            **{sort: getattr(self.found, sort) + len(keys) for sort, keys in sorts.items()},
            repaired=self.found.repaired + repaired,
            ranges=self.found.ranges + 1,
            changed_ranges=self.found.changed_ranges + changed,
        )

    def total(self, seconds: float) -> Verification:
        """Return the whole."""
        checksum = f"{self.checksum:016x}"
        return replace(self.found, checksum=checksum, mismatches=tuple(self.named), seconds=round(seconds, 3))
