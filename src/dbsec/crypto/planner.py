"""How a column is found again after encryption, and what that tells whoever reads it: bits, costs, refusals.

The figures are those of one key, which is one tenant's column. With D different values in R rows and an index of b
bits, a value's *coincidences* are the other values that have its index: (D - 1) / 2^b are expected. A look-up fetches
their rows too, R / D for each; the caller drops them after decryption.

Many coincidences hide which rows are equal, and cost rows that are fetched in vain. CipherSweet's planner wants them
between 2 and the square root of the rows; AWS, "Choosing a beacon length", asks for a length from half of log2(D) to
one bit below log2(D), which is the same of D. We count values, as AWS does: rows that are equal hide nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from dbsec.crypto.errors import ModeRefused
from dbsec.crypto.keyring import Profile
from dbsec.crypto.lookup import BlindIndex
from dbsec.crypto.statistics import ColumnStatistics

__all__ = [
    "Aim",
    "Option",
    "Proposal",
    "coincidences",
    "hiding_bits",
    "leaks",
    "low_entropy",
    "plan_deterministic",
    "plan_index",
    "refuse_low_entropy",
]

FEW_VALUES = 256
DOMINATING = 0.01  # a share of the rows
LEAST_COINCIDENCES = 2
EXACT_BITS = 63
UNIQUE_BITS = 128
FULL_BITS = 256
SIV_OVERHEAD_BYTES = 22
_FAIR = 4  # times its fair share, in a column of few values
_LEAF_FILL = 0.9
_TUPLE_BYTES = 12  # header of an index tuple 8, its line pointer 4


class Aim(StrEnum):
    """What an index is for."""

    HIDING = "hiding"
    EXACT = "exact"
    UNIQUE = "unique"
    FULL = "full"
    DETERMINISTIC = "deterministic"


@dataclass(frozen=True, slots=True)
class Option:
    """One way to find values again. ``bits`` None is deterministic encryption.

    ``coincidences``: other values with the index of one. ``strangers_per_lookup``: rows fetched in vain.
    ``collision_odds``: that any two of all values meet. Bytes are of a row: in a btree of different values, and in the
    table.
    """

    aim: Aim
    bits: int | None
    coincidences: float
    strangers_per_lookup: float
    collision_odds: float
    index_bytes: float
    column_bytes: int
    why: str

    @property
    def type(self) -> str:
        """The column's type in PostgreSQL."""
        return "bigint" if self.bits is not None and self.bits <= EXACT_BITS else "bytea"

    @property
    def index(self) -> BlindIndex | None:
        """What an ``EncryptedColumn`` declares."""
        return None if self.bits is None else BlindIndex(self.bits)


@dataclass(frozen=True, slots=True)
class Proposal:
    """``options`` in the order of what they hide; ``leaks`` and ``warnings`` are for people."""

    statistics: ColumnStatistics
    recommended: Option
    options: tuple[Option, ...]
    leaks: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def plan_index(statistics: ColumnStatistics, *, unique: bool, allow_low_entropy: bool = False) -> Proposal:
    """Propose the width of a blind index.

    ``unique``: the index refuses duplicates, and 128 bits are the least. Otherwise the widest one that still hides, or
    63 bits in a bigint where the column has too few values to hide in. Errors: ``ModeRefused`` for low entropy.
    """
    warnings = _warnings(statistics, allow_low_entropy=allow_low_entropy)
    if unique:
        chosen = _option(statistics, Aim.UNIQUE, UNIQUE_BITS)
        options = (chosen, _option(statistics, Aim.FULL, FULL_BITS))
        return Proposal(statistics, chosen, options, leaks(statistics, chosen), warnings)
    exact, full = _option(statistics, Aim.EXACT, EXACT_BITS), _option(statistics, Aim.FULL, FULL_BITS)
    bits = hiding_bits(statistics.distinct)
    hiding = (_option(statistics, Aim.HIDING, bits),) if bits else ()
    options = (*hiding, exact, full)
    return Proposal(statistics, options[0], options, leaks(statistics, options[0]), warnings)


def plan_deterministic(
    statistics: ColumnStatistics,
    *,
    profile: Profile = Profile.STANDARD,
    allow_low_entropy: bool = False,
) -> Proposal:
    """Tell what deterministic encryption shows. Errors: ``ModeRefused`` for low entropy, and in the FIPS profile."""
    if profile is Profile.FIPS:
        raise ModeRefused(
            "AES-SIV is not in OpenSSL's FIPS provider", hint="in the FIPS profile: randomised, with a blind index"
        )
    warnings = _warnings(statistics, allow_low_entropy=allow_low_entropy)
    size = statistics.width_bytes + SIV_OVERHEAD_BYTES
    option = Option(
        Aim.DETERMINISTIC, None, 0.0, 0.0, 0.0, btree_bytes(size), _stored(size), "the value is its own index"
    )
    shown = (*leaks(statistics, option), "the length of each value: a ciphertext is 22 bytes longer")
    return Proposal(statistics, option, (option,), shown, (*warnings, _PATTERNS))


_PATTERNS = (
    "deterministic: equal values are equal bytes in every row, index, log and backup, of all times: "
    "a blind index shows no more, can show less, and can be dropped"
)


def hiding_bits(distinct: int) -> int | None:
    """Return the widest index with 2 coincidences or more, but not more of them than the root of ``distinct``.

    None where there is none: for 16 values and more there always is one.
    """
    if distinct < 2 * LEAST_COINCIDENCES + 1:
        return None
    bits = min(((distinct - 1) // LEAST_COINCIDENCES).bit_length() - 1, EXACT_BITS)
    return bits if coincidences(distinct, bits) <= math.sqrt(distinct) else None


def coincidences(distinct: int, bits: int) -> float:
    """Expect so many other values with the index of one."""
    return math.ldexp(distinct - 1, -bits)


def low_entropy(statistics: ColumnStatistics) -> str:
    """Say why frequencies would tell the values, by the column's own figures; "" where they do not.

    Values of which each has a row of its own tell none, however few they are.
    """
    repeats = statistics.rows_per_value >= 2
    if repeats and statistics.distinct < FEW_VALUES:
        return (
            f"{statistics.filled:,.0f} rows have {statistics.distinct:,} different values: "
            f"counting equal rows tells which value is which (at least {FEW_VALUES} are wanted)"
        )
    most = max(DOMINATING, _FAIR / statistics.distinct)
    if statistics.top_frequency > most:
        return (
            f"one value has {statistics.top_frequency:.1%} of the rows ({statistics.min_entropy_bits:.1f} bits of "
            f"min-entropy): its rows are told by their number, whatever the index (at most {most:.1%} are wanted)"
        )
    return ""


def refuse_low_entropy(statistics: ColumnStatistics) -> None:
    """Errors: ``ModeRefused``, with the column's own figures."""
    if reason := low_entropy(statistics):
        raise ModeRefused(f"low entropy: {reason}", hint="randomised, without an index; or --allow-low-entropy")


def leaks(statistics: ColumnStatistics, option: Option) -> tuple[str, ...]:
    """Tell what a reader of the column learns without a key."""
    found = []
    if option.aim is Aim.HIDING:
        found.append(
            f"which rows differ for certain; those with the same index may be equal, or have one of "
            f"{option.coincidences:.1f} other values"
        )
    elif statistics.rows_per_value >= 2:
        found.append(f"which rows are equal: {statistics.rows_per_value:,.1f} rows to a value on the average")
    else:
        found.append("which rows are equal, and that almost none are")
    if statistics.top_frequency * statistics.filled >= 2:
        found.append(
            f"how often each comes: the most frequent in {statistics.top_frequency:.2%} of the rows, "
            f"so the best guess for a row is right with 1 in {1 / statistics.top_frequency:,.0f}"
        )
    if statistics.null_fraction > 0:
        found.append(f"which rows have no value: {statistics.null_fraction:.1%}")
    found.append("to who may ask the service: whether a guessed value is there")
    return tuple(found)


def btree_bytes(size: int, *, integer: bool = False) -> float:
    """Return the bytes of a row in a btree whose values all differ, with its leaves 90 % full.

    Source: PostgreSQL, "Database Page Layout" and "B-Tree Indexes"; a bytea has one byte of length up to 126.
    """
    return (_TUPLE_BYTES + _aligned(size if integer else _stored(size))) / _LEAF_FILL


def _option(statistics: ColumnStatistics, aim: Aim, bits: int) -> Option:
    distinct = statistics.distinct
    integer, size = bits <= EXACT_BITS, 8 if bits <= EXACT_BITS else bits // 8
    return Option(
        aim,
        bits,
        coincidences=coincidences(distinct, bits),
        strangers_per_lookup=math.ldexp((distinct - 1) * statistics.rows_per_value, -bits),
        collision_odds=-math.expm1(-math.ldexp(distinct * (distinct - 1) / 2, -bits)),
        index_bytes=btree_bytes(size, integer=integer),
        column_bytes=size if integer else _stored(size),
        why=_WHY[aim],
    )


_WHY = {
    Aim.HIDING: "two other values and more have the index of each",
    Aim.EXACT: "the smallest index that finds a value and nothing else",
    Aim.UNIQUE: "no two values meet, so that UNIQUE refuses duplicates alone",
    Aim.FULL: "the whole HMAC: for who will not think about width again",
}


def _warnings(statistics: ColumnStatistics, *, allow_low_entropy: bool) -> tuple[str, ...]:
    found = []
    if not allow_low_entropy:
        refuse_low_entropy(statistics)
    elif reason := low_entropy(statistics):
        found.append(f"low entropy, which is allowed here: {reason}")
    if statistics.stale:
        found.append(f"{statistics.changed_rows:,} rows were written since the figures were taken: ANALYZE")
    return tuple(found)


def _stored(size: int) -> int:
    return size + (1 if size <= 126 else 4)


def _aligned(size: int) -> int:
    return -(-size // 8) * 8
