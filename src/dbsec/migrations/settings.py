"""``[migrations]`` of dbsec.toml: where the files are, who the service is, and when a contract may run."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from dbsec.config import Config, Section
from dbsec.errors import ConfigError
from dbsec.migrations.runner.limits import Limits

FOLDER = "db/migrations"


class Settings(Section):
    """``service`` and ``release``: clients of ``service@OTHER`` are of the old release.

    ``quiet_s``: how long none of them may have been seen. ``sample_gap_s``: no two looks at the sessions may lie
    further apart, or nothing is known of the time between. ``observed``: references to the DSNs of more servers on
    which clients may be (standbys). ``standbys_have_clients``: False where they serve no one. ``other_clients``:
    patterns of application names that are not the service's; who else is not named ``service@release`` is in doubt.
    """

    folder: str = FOLDER
    service: str = ""
    release: str = ""
    quiet_s: float = Field(default=24 * 3600.0, ge=0)
    sample_gap_s: float = Field(default=600.0, gt=0)
    observed: tuple[str, ...] = ()
    standbys_have_clients: bool = True
    other_clients: tuple[str, ...] = (
        "*@*",
        "psql",
        "pg_dump",
        "pg_dumpall",
        "pg_restore",
        "pgAdmin 4 - *",
        "DBeaver *",
    )
    waivers: str = ""
    check_timeout_s: float = Field(default=300.0, gt=0)
    runner: Limits = Limits()
    # the tables below belong to others, who read them by themselves
    guard: dict[str, Any] = Field(default_factory=dict)
    backfill: dict[str, Any] = Field(default_factory=dict)


def of(config: Config) -> Settings:
    """Read the table of a configuration. Errors: ``ConfigError`` with the key."""
    try:
        return Settings.model_validate(config.pillars.get("migrations", {}))
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"[migrations] '{key}': {first['msg'].lower()}", hint="see docs/migrations_playbook.md"
        ) from exc
