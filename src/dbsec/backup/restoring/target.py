"""Where a recovery ends: one target, checked before anything is read, and the settings that PostgreSQL has for it.

Source: PostgreSQL, "Recovery Target".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Literal

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import UsageError
from dbsec.pg.lsn import Lsn

Action = Literal["promote", "pause", "shutdown"]
MOST_NAME_BYTES: Final = 63
_LATEST: Final = "--latest restores as far as the WAL goes"


class Kind(StrEnum):
    """What a target names. ``immediate``: the moment at which the base backup is consistent."""

    LATEST = "latest"
    TIME = "time"
    LSN = "lsn"
    XID = "xid"
    NAME = "name"
    IMMEDIATE = "immediate"


SETTINGS: Final = {
    Kind.TIME: "recovery_target_time",
    Kind.LSN: "recovery_target_lsn",
    Kind.XID: "recovery_target_xid",
    Kind.NAME: "recovery_target_name",
    Kind.IMMEDIATE: "recovery_target",
}


@dataclass(frozen=True, slots=True)
class Target:
    """``value`` is what PostgreSQL reads; ``inclusive``: what happened exactly there is kept.

    A time is compared with that of commits: what began before it and was committed after it is not there.
    ``timeline`` None is the newest. ``action`` is what the server does once it is there.
    """

    kind: Kind = Kind.LATEST
    value: str = ""
    inclusive: bool = True
    timeline: int | None = None
    action: Action = "promote"

    @property
    def moment(self) -> datetime:
        """The time of a target that is one."""
        return datetime.fromisoformat(self.value)

    @property
    def lsn(self) -> Lsn:
        """The position of a target that is one."""
        return Lsn.parse(self.value)

    def settings(self) -> dict[str, str]:
        """Return the settings that name it; the others must be empty, and stand before them."""
        if self.kind is Kind.LATEST:
            return {}
        told = {SETTINGS[self.kind]: "immediate" if self.kind is Kind.IMMEDIATE else self.value}
        if self.kind in (Kind.TIME, Kind.LSN, Kind.XID):
            told["recovery_target_inclusive"] = "on" if self.inclusive else "off"
        return told

    def __str__(self) -> str:
        if self.kind is Kind.LATEST:
            return "the end of the WAL"
        if self.kind is Kind.IMMEDIATE:
            return "the end of the base backup"
        return f"{self.kind} {self.value}{'' if self.inclusive else ', exclusive'}"


def parse_target(
    told: Mapping[str, str | bool | None],
    *,
    exclusive: bool = False,
    timeline: int | None = None,
    action: Action = "promote",
    clock: Clock = SYSTEM,
) -> Target:
    """Read the one target among ``told`` (kind -> text, or True for latest and immediate); none is latest.

    Errors: ``UsageError`` for two, for a time to come, and for what is no time, LSN, transaction or name.
    """
    named = [(Kind(kind), value) for kind, value in told.items() if value]
    if len(named) > 1:
        raise UsageError(f"two targets: '{named[0][0]}' and '{named[1][0]}'", hint="a restore ends at one")
    kind, value = named[0] if named else (Kind.LATEST, True)
    if exclusive and kind not in (Kind.TIME, Kind.LSN, Kind.XID):
        raise UsageError(
            f"a target '{kind}' cannot be exclusive", hint="--exclusive goes with a time, an LSN or an xid"
        )
    if timeline is not None and timeline < 1:
        raise UsageError(f"there is no timeline {timeline}: they count from 1")
    target = Target(kind, "" if value is True else str(value), not exclusive, timeline, action)
    return replace(target, value=_checked(target, clock))


def says_zone(text: str) -> bool:
    """Tell whether a time names its zone; without one it is taken as UTC."""
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _checked(target: Target, clock: Clock) -> str:
    try:
        if target.kind is Kind.TIME:
            return _time(target.value, clock)
        if target.kind is Kind.LSN:
            return str(Lsn.parse(target.value))
        # PostgreSQL compares the lower half, as it stands in WAL; it takes the whole of a 64-bit one
        if target.kind is Kind.XID and not (target.value.isdecimal() and 3 <= int(target.value) < 1 << 64):
            raise ValueError(f"'{target.value[:40]}' is not a transaction id")
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    size = len(target.value.encode())
    if target.kind is Kind.NAME and (size > MOST_NAME_BYTES or not target.value.isprintable()):
        raise UsageError(f"a restore point has {MOST_NAME_BYTES} bytes at most, all of them printable")
    return target.value


def _time(text: str, clock: Clock) -> str:
    try:
        moment = datetime.fromisoformat(text)
        if ":" not in text:  # a day alone has a midnight that nobody has meant
            raise ValueError(text)
    except ValueError:
        raise UsageError(
            f"'{text[:60]}' is not a time of RFC 3339", hint="--time 2026-11-24T10:15:00.000+01:00"
        ) from None
    moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    if moment > clock.now():
        raise UsageError(f"the time {moment.isoformat()} is to come: no server would find its end", hint=_LATEST)
    return moment.isoformat(sep=" ", timespec="microseconds")
