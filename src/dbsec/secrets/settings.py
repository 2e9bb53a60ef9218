"""``[secrets]`` of dbsec.toml: where secrets come from."""

from __future__ import annotations

from pydantic import Field, ValidationError

from dbsec.config import Config, Section
from dbsec.errors import ConfigError


class SecretsSettings(Section):
    """``source`` is a uri for ``open_secrets``; credentials stand in it by reference."""

    source: str = Field(min_length=1)


def of(config: Config) -> SecretsSettings:
    """Read the table of a configuration. Errors: ``ConfigError`` with the key."""
    try:
        return SecretsSettings.model_validate(config.pillars.get("secrets", {}))
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        hint = "see docs/secrets_rotation.md, or give --source"
        raise ConfigError(f"[secrets] '{key}': {first['msg'].lower()}", hint=hint) from None
