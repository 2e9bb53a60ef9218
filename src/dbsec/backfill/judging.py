"""Whether a backfill may go on: a pure function of readings and limits, and what to say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dbsec.backfill.limits import ThrottleLimits
from dbsec.backfill.readings import Readings
from dbsec.backfill.signals import Reading


@dataclass(frozen=True, slots=True)
class Verdict:
    """``waits`` and ``critical`` are reasons in words; ``held`` names the signals that are above, for the next time."""

    waits: tuple[str, ...] = ()
    critical: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()


def judge(readings: Readings, limits: ThrottleLimits, held: frozenset[str] = frozenset()) -> Verdict:
    """Judge readings. A signal in ``held`` must fall to ``resume_at`` of its limit, so that it does not flap."""
    waits: list[str] = []
    critical: list[str] = []
    above: set[str] = set()
    for signal, values in readings.values.items():
        if not values:
            continue
        worst = max(values, key=lambda reading: reading.value)
        ceiling, limit = limits.critical(signal), limits.maximum(signal)
        if ceiling is not None and worst.value > ceiling:
            critical.append(said(signal, worst, ceiling))
        if limit is not None and worst.value > limit * (limits.resume_at if signal in held else 1):
            above.add(signal)
            waits.append(said(signal, worst, limit))
    if readings.told_to_wait:
        waits.append("wait_query says so")
        above.add("wait_query")
    return Verdict(tuple(waits), tuple(critical), frozenset(above))


def said(signal: str, reading: Reading, limit: float) -> str:
    """Say a reading and its limit in words."""
    phrase, shown = _WORDS[signal]
    return f"{phrase.format(of=reading.of, value=shown(reading.value))}, limit {shown(limit)}"


def size(value: float) -> str:
    """Write bytes as PostgreSQL does, in powers of 1024."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TB"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


def _number(value: float) -> str:
    return f"{value:,.0f}"


_WORDS: dict[str, tuple[str, Callable[[float], str]]] = {
    "lag_bytes": ("{of} is {value} behind", size),
    "lag_s": ("{of} is {value} behind", _seconds),
    "wal_bytes_per_s": ("{of} writes {value} of log a second", size),
    "transaction_s": ("{of} is open for {value}", _seconds),
    "xmin_age": ("{of} keeps vacuum {value} transactions behind", _number),
    "lock_waits": ("sessions that wait for a lock on {of}: {value}", _number),
    "dead_share": ("{value} of the rows of {of} are dead", lambda share: f"{share:.0%}"),
    "probe_p95_ms": ("the 95th percentile of {of} is {value}", lambda ms: f"{ms:,.1f} ms"),
}
