"""What a backfill may cost the service: ``[migrations.backfill]`` of ``dbsec.toml``."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, InstanceOf, ValidationError, model_validator

from dbsec.backfill.hours import Hours
from dbsec.config import Config, Section
from dbsec.errors import ConfigError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B\Z")
_POWER = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4}


def _number(value: object) -> object:
    if value == "off":
        return None
    if isinstance(value, bool):
        raise ValueError("write a number, or 'off'")  # noqa: TRY004 pydantic's own; else false would be a limit of 0
    if isinstance(value, str) and (match := _SIZE.match(value)):
        return float(match[1]) * 1024 ** _POWER[match[2]]
    return value


def _hours(value: object) -> object:
    return Hours.parse(value) if isinstance(value, str) else value


# TOML has no null: "off" takes a limit away. A size may bear PostgreSQL's units, which are powers of 1024.
Limit = Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(_number)]
Share = Annotated[Annotated[float, Field(ge=0, le=1)] | None, BeforeValidator(_number)]
Window = Annotated[InstanceOf[Hours] | None, BeforeValidator(_hours)]


class ThrottleLimits(Section):
    """Above ``max_*`` the backfill waits, above ``critical_*`` it stops; None (in a file: "off") is no limit.

    ``lag``: of the replica that is furthest behind in replay; an idle replication slot counts as one.
    ``wal_bytes_per_s``: of the whole server. ``transaction_s``, ``xmin_age`` (seconds; transactions): of the oldest
    that vacuum waits for. ``lock_waits``: sessions that wait on the table. ``dead_share``: of the table's rows.
    ``probe``: a query whose 95th percentile is watched; ``wait_query``: one that says true for wait. Both run
    read-only and name their schemas.
    """

    max_lag_bytes: Limit = 64 * 1024**2
    max_lag_s: Limit = 10
    max_wal_bytes_per_s: Limit = None
    max_transaction_s: Limit = 900
    max_xmin_age: Limit = None
    max_lock_waits: Limit = 0
    max_dead_share: Share = None
    max_probe_p95_ms: Limit = None

    critical_lag_bytes: Limit = None
    critical_lag_s: Limit = None
    critical_wal_bytes_per_s: Limit = None
    critical_transaction_s: Limit = None
    critical_xmin_age: Limit = None
    critical_lock_waits: Limit = None
    critical_dead_share: Share = None
    critical_probe_p95_ms: Limit = None

    hours: Window = None
    probe: str = ""
    wait_query: str = ""

    read_every_ms: float = Field(default=500, gt=0)
    resume_at: float = Field(default=0.8, gt=0, le=1)  # of a limit: a reading at its edge must not stop and go
    reading_timeout_ms: int = Field(default=2000, gt=0)
    unread_s: float = Field(default=60, ge=0)  # how long a signal may be unreadable before the backfill gives up

    @model_validator(mode="after")
    def _probe_and_its_limit(self) -> ThrottleLimits:
        if bool(self.probe) != self.watches("probe_p95_ms"):
            raise ValueError("probe and max_probe_p95_ms go together")
        return self

    def maximum(self, signal: str) -> float | None:
        """Return the limit above which the backfill waits."""
        found: float | None = getattr(self, f"max_{signal}")
        return found

    def critical(self, signal: str) -> float | None:
        """Return the limit above which the backfill stops."""
        found: float | None = getattr(self, f"critical_{signal}")
        return found

    def watches(self, signal: str) -> bool:
        """Tell whether a signal must be read at all."""
        return self.maximum(signal) is not None or self.critical(signal) is not None


def of_config(config: Config) -> ThrottleLimits:
    """Read ``[migrations.backfill]``. Errors: ``ConfigError``."""
    table = config.pillars.get("migrations", {}).get("backfill", {})
    if not isinstance(table, dict):
        raise ConfigError("[migrations]: 'backfill' is no table", hint="[migrations.backfill]")
    return of_table(table)


def of_table(table: dict[str, Any]) -> ThrottleLimits:
    """Read the limits from a table of a TOML file. Errors: ``ConfigError``."""
    try:
        return ThrottleLimits.model_validate(table)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = "".join(f"'{part}': " for part in first["loc"])
        text = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"[migrations.backfill]: {where}{text[:1].lower()}{text[1:]}") from exc
