"""``[backup]`` of dbsec.toml: where backups lie, which keys seal them, how long they stay."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field, ValidationError

from dbsec.config import Config, Section, Span
from dbsec.errors import ConfigError


class RetentionSettings(Section):
    """``[backup.retention]``: a backup stays while any of these wants it; the newest whole one always stays.

    ``daily`` to ``yearly`` keep the last full backup of as many periods (grandfather, father, son). WAL stays from the
    oldest backup on that ``[objectives] recovery_window_days`` or ``window`` needs; older backups keep what makes them
    consistent.
    """

    count: int = Field(default=2, ge=1)
    age: Span | None = None
    window: Span | None = None
    daily: int = Field(default=0, ge=0)
    weekly: int = Field(default=0, ge=0)
    monthly: int = Field(default=0, ge=0)
    yearly: int = Field(default=0, ge=0)


class BackupSettings(Section):
    """``store`` is a url, ``kms`` and ``escrow`` are KMS uris; ``dsn`` refers to a login with REPLICATION.

    ``recipient`` (64 hex digits) and ``content_key`` (a reference to 64 hex digits) are what a host has that only
    writes: such a host names no ``kms``. ``epoch``: how long a key seals WAL. ``engine``: protocol or ranges.
    """

    store: str = Field(default="", repr=False)
    kms: str = Field(default="", repr=False)
    escrow: str = Field(default="", repr=False)
    dsn: str = Field(default="", repr=False)
    recipient: str = ""
    content_key: str = Field(default="", repr=False)
    epoch: Span = timedelta(hours=24)
    patience: Span = timedelta(seconds=30)
    engine: Literal["protocol", "ranges"] = "protocol"
    rate_mb_s: float | None = Field(default=None, gt=0)
    retention: RetentionSettings = RetentionSettings()


def of(config: Config) -> BackupSettings:
    """Read the table of a configuration. Errors: ``ConfigError`` with the key, without what it holds."""
    try:
        return BackupSettings.model_validate(config.pillars.get("backup", {}))
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        text = first["msg"].removeprefix("Value error, ")
        hint = "see docs/encryption_at_rest.md"
        raise ConfigError(f"[backup] '{key}': {text[:1].lower()}{text[1:]}", hint=hint) from exc
