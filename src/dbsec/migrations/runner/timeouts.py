"""Which timeouts a statement runs under: the runner's, and the file's own where it is stricter or meant for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dbsec.migrations.runner.classify import Classified, Kind
from dbsec.migrations.runner.limits import Limits

_VALUE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)?\s*\Z")
_MS = {"us": 0.001, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Milliseconds; 0 is none. ``transaction_ms`` exists from 17 on."""

    lock_ms: int
    statement_ms: int
    idle_ms: int
    transaction_ms: int = 0

    def settings(self, major: int) -> Mapping[str, str]:
        """Return them by PostgreSQL's names; each is set, so that a guard sees that the session chose it."""
        made = {
            "lock_timeout": f"{self.lock_ms}ms",
            "statement_timeout": f"{self.statement_ms}ms",
            "idle_in_transaction_session_timeout": f"{self.idle_ms}ms",
        }
        return {**made, "transaction_timeout": f"{self.transaction_ms}ms"} if major >= 17 else made


def milliseconds(value: str | None) -> int | None:
    """Read a setting of time as a file writes it; None for 0, DEFAULT and what is none."""
    found = _VALUE.match(value or "")
    if found is None or float(found[1]) == 0:
        return None
    return max(1, round(float(found[1]) * _MS[found[2] or "ms"]))


def of(one: Classified, limits: Limits, *, felt: bool | None = None) -> Timeouts:
    """Tell the timeouts of a statement; ``felt``: others wait while it runs (None: as its kind says).

    What the file has SET counts where it is stricter. A statement_timeout of the file counts too where it is longer and
    nobody waits for the statement (LONG, CONCURRENT, ROWS): its author has measured a VALIDATE. 0 never counts. A
    lock_timeout does not count for CONCURRENT: it would leave an invalid index behind.
    """
    felt = one.kind in _FELT if felt is None else felt
    own, said = _own_ms(one, limits, felt=felt), milliseconds(one.settings.get("statement_timeout"))
    statement = own if said is None else min(own, said) if felt else said
    waits, told = _waits_ms(one, limits, felt=felt), milliseconds(one.settings.get("lock_timeout"))
    if told is not None and not one.alone:
        waits = min(waits, told) if waits else told
    return Timeouts(waits, statement, round(1000 * limits.short_s))


_FELT = (Kind.SHORT, Kind.FREE, Kind.BLOCKING)


def _own_ms(one: Classified, limits: Limits, *, felt: bool) -> int:
    if one.kind is Kind.BLOCKING:  # it was allowed, and takes its time
        return round(1000 * limits.long_s)
    if felt:
        return round(1000 * limits.short_s)
    return round(1000 * (limits.rows_s if one.kind is Kind.ROWS else limits.long_s))


def _waits_ms(one: Classified, limits: Limits, *, felt: bool) -> int:
    """What a statement may wait for a lock that was not taken before: nobody queues behind LONG and CONCURRENT."""
    if felt:
        return limits.own_wait_ms
    if one.kind in (Kind.LONG, Kind.CONCURRENT):
        return 0
    return limits.escalation_ms[-1] if one.kind is Kind.ROWS else limits.own_wait_ms
