"""The one policy that the guard is made from: ``[migrations.guard]`` of dbsec.toml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, field_validator

from dbsec.config import Section, load
from dbsec.errors import ConfigError


class Mode(StrEnum):
    """What a guard does with what it finds."""

    OBSERVE = "observe"
    ENFORCE = "enforce"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard. ``sqlstate`` is that of its refusal; the last three refuse nothing, they set."""

    name: str
    sqlstate: str
    does: str


GUARDS = (
    Guard("rewrite", "DBG01", "refuses a rewrite of a table above its limit, before a row is written"),
    Guard("index", "DBG02", "refuses to build an index on such a table without CONCURRENTLY"),
    Guard("drop", "DBG03", "refuses the loss of a protected object, by whatever cascade"),
    Guard("definer", "DBG04", "refuses a SECURITY DEFINER function without a search_path of its own"),
    Guard("statement_timeout", "DBG05", "refuses work on a table without one; not CONCURRENTLY and VALIDATE"),
    Guard("search_path", "DBG06", "refuses DDL under a search_path that the policy does not name"),
    Guard("tenancy", "DBG07", "enables and forces row security of a tenant's new table, and tells of it"),
    Guard("lock_timeout", "DBG08", "sets it where neither server nor session did"),
    Guard("transaction_timeout", "DBG09", "the same from PostgreSQL 17 on, for what locks a table"),
)
_NAMES = frozenset(guard.name for guard in GUARDS)
# as pg_event_trigger_dropped_objects() writes them
PROTECTABLE = (
    *("table", "table column", "table constraint", "index", "view", "materialized view", "sequence", "schema"),
    *("function", "procedure", "trigger", "policy", "type"),
)
_SIZE = re.compile(r"(\d{1,12})\s*(B|kB|MB|GB|TB)?")
_UNITS = {None: 0, "B": 0, "kB": 10, "MB": 20, "GB": 30, "TB": 40}
_SPAN = re.compile(r"[1-9]\d{0,6}(ms|s|min|h)")
_IDENTIFIER = r'(?:[a-z_][a-z0-9_$]*|"(?:[^"]|"")+")'
_TABLE = re.compile(rf"{_IDENTIFIER}\.{_IDENTIFIER}")


def _bytes(value: Any) -> Any:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if match is None:
        raise ValueError("is no size: write 100MB, 1GB or bytes")
    return int(match[1]) << _UNITS[match[2]]


def _span(value: Any) -> Any:
    if not isinstance(value, str) or not _SPAN.fullmatch(value):
        raise ValueError("is no span of time above 0: write 500ms, 30s, 15min or 1h")
    return value


def _path(value: Any) -> Any:
    """Write a search_path as the server shows it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError('is no search_path: write "app, pg_temp"')
    return re.sub(r"\s*,\s*", ", ", value.strip())


def _table(value: Any) -> Any:
    if not isinstance(value, str) or not _TABLE.fullmatch(value):
        raise ValueError('is no name of a table: write schema.table, with "Quotes" where SQL needs them')
    return value


Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=0)]
Span = Annotated[str, BeforeValidator(_span)]
SearchPath = Annotated[str, BeforeValidator(_path)]
TableName = Annotated[str, BeforeValidator(_table)]


class Limit(Section):
    """``[migrations.guard.tables."schema.table"]``: hot is a limit of 0: no work that grows passes."""

    max_size: Bytes | None = None
    hot: bool = False
    reason: str = ""


class Policy(Section):
    """``[migrations.guard]``; ``mode`` is that of every guard that ``modes`` does not name."""

    mode: Mode = Mode.ENFORCE
    modes: dict[str, Mode] = Field(default_factory=dict)
    max_table_size: Bytes = 100 << 20
    tables: dict[TableName, Limit] = Field(default_factory=dict)
    protected: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    lock_timeout: Span = "500ms"
    transaction_timeout: Span = "30s"
    search_paths: tuple[SearchPath, ...] = ('"$user", public',)
    tenant_schemas: tuple[str, ...] = ()
    not_tenant_tables: tuple[TableName, ...] = ()
    max_override: Span = "1h"

    @field_validator("modes")
    @classmethod
    def _known_guards(cls, modes: dict[str, Mode]) -> dict[str, Mode]:
        for name in modes:
            if name not in _NAMES:
                raise ValueError(f"there is no guard '{name}': choose of {', '.join(sorted(_NAMES))}")
        return modes

    @field_validator("tables")
    @classmethod
    def _one_limit_each(cls, tables: dict[str, Limit]) -> dict[str, Limit]:
        for name, limit in tables.items():
            if (limit.max_size is None) is not limit.hot:
                raise ValueError(f"'{name}' needs either max_size or hot = true")
        return tables

    @field_validator("protected")
    @classmethod
    def _known_types(cls, protected: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for kind, names in protected.items():
            if kind not in PROTECTABLE:
                raise ValueError(f"nothing of type '{kind}' can be protected: choose of {', '.join(PROTECTABLE)}")
            if kind == "table" and (bad := next((name for name in names if not _TABLE.fullmatch(name)), None)):
                raise ValueError(f"'{bad}' is no name of a table: write schema.table")
        return protected

    def mode_of(self, guard: str) -> Mode:
        """Return a guard's own mode, else the one for all."""
        return self.modes.get(guard, self.mode)

    @classmethod
    def of(cls, table: dict[str, Any], *, where: str) -> Policy:
        """Read ``[migrations.guard]``. Errors: ``ConfigError`` with ``where``, the key and what is wrong."""
        try:
            return cls.model_validate(table)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            key = ".".join(["migrations.guard", *(str(part) for part in first["loc"])])
            text = first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{where}: '{key}': {text[:1].lower()}{text[1:]}") from exc

    @classmethod
    def load(cls, path: Path | None) -> Policy:
        """Read it from a file; None gives the defaults. Errors: ``ConfigError``."""
        migrations = load(path).pillars.get("migrations", {})
        return cls.of(migrations.get("guard", {}), where=str(path))
