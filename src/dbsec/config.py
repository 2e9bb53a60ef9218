"""``dbsec.toml``: what must hold of the service, what a restore may cost, and how often what is rotated."""

from __future__ import annotations

import difflib
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dbsec.errors import ConfigError

OWN = ("slo", "objectives", "rotation")
PILLARS = (
    *("migrations", "tls", "backup", "crypto", "secrets", "tenancy", "roles"),
    *("audit", "kms", "store", "lab", "demo", "masking", "clusters"),
)

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)")
_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}


def span(text: object) -> object:
    """Read ``90s``, ``5min``, ``12h`` or ``365d``; pydantic's own would take ``PT5M`` alone."""
    found = _SPAN.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise ValueError("write a number and s, min, h or d: '5min'")
    return timedelta(**{_UNITS[found[2]]: float(found[1])})


Span = Annotated[timedelta, BeforeValidator(span)]


class Section(BaseModel):
    """A table of the file: frozen, and a key that is not known is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SloSettings(Section):
    """``[slo]``: the share of requests that succeed, and the 99th percentile of latency."""

    availability: float = Field(default=0.999, gt=0, le=1)
    p99_ms: float = Field(default=500.0, gt=0)


class Objectives(Section):
    """``[objectives]``: what a restore may lose and last, and how far back it must reach."""

    rpo_s: float = Field(default=60, gt=0)
    rto_s: float = Field(default=900, gt=0)
    recovery_window_days: int = Field(default=14, gt=0)


class Config(Section):
    """The whole file; ``pillars`` holds the table of each pillar as it stands there."""

    slo: SloSettings = SloSettings()
    objectives: Objectives = Objectives()
    rotation: dict[str, str] = Field(default_factory=dict)
    pillars: dict[str, dict[str, Any]] = Field(default_factory=dict)


def load(path: Path | None) -> Config:
    """Read a file; None gives the defaults. Errors: ``ConfigError`` with file, key and what is wrong."""
    if path is None:
        return Config()
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"cannot read '{path}': {exc.strerror}", hint="dbsec init .") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"'{path}' is not TOML: {exc}") from exc
    own = {name: table for name, table in tables.items() if name in OWN}
    rest = {name: table for name, table in tables.items() if name not in own}
    for name in rest:
        if name not in PILLARS:
            raise ConfigError(f"{path}: '{name}' is no table of dbsec", hint=_meant(name))
    return _validated({**own, "pillars": rest}, str(path))


def _meant(name: str) -> str:
    close = difflib.get_close_matches(name, (*OWN, *PILLARS), n=1)
    return f"did you mean [{close[0]}]?" if close else f"choose of {', '.join((*OWN, *PILLARS))}"


def _validated(values: dict[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: '{key}': {first['msg'].lower()}") from exc
