"""What the service is told: environment variables, read once, with credentials as references."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from dbsec.errors import ConfigError
from dbsec.pg import Conninfo
from dbsec.secret import Secret, resolve

_LEAST_KEY = 32
_ENCRYPTABLE = frozenset({"phone", "email"})


@dataclass(frozen=True, slots=True)
class Flags:
    """Switches that a release reads while it runs; both are off until a file says otherwise."""

    dual_write: bool = False
    read_switch: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """The service's configuration. ``environ`` stays, because references are resolved again on SIGHUP.

    ``encrypted`` are the columns that this release knows as ciphertext alone, ``changing`` those that it keeps in clear
    and encrypted, as its flags say.
    """

    environ: Mapping[str, str]
    dsn: str
    session_key: Secret
    session_s: int
    service: str
    release: str
    flags_file: Path | None
    encrypted: frozenset[str]
    changing: frozenset[str]
    rate_per_s: float
    pool_max: int

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read ``APP_*``. Errors: ``ConfigError`` naming the variable, never its value."""
        key = resolve(_required(environ, "APP_SESSION_KEY"), environ=environ)
        if len(key.reveal().encode()) < _LEAST_KEY:
            raise ConfigError(f"APP_SESSION_KEY has under {_LEAST_KEY} bytes", hint="openssl rand -hex 32")
        flags = environ.get("APP_FLAGS", "")
        return cls(
            environ=environ,
            dsn=_required(environ, "APP_DSN"),
            session_key=key,
            session_s=int(number(environ, "APP_SESSION_S", 900, most=86_400)),
            service=environ.get("APP_SERVICE", "orders"),
            release=environ.get("APP_RELEASE", "dev"),
            flags_file=Path(flags) if flags else None,
            encrypted=_columns(environ, "APP_ENCRYPTED"),
            changing=_columns(environ, "APP_CHANGING"),
            rate_per_s=number(environ, "APP_RATE_PER_S", 100, most=1_000_000),
            pool_max=int(number(environ, "APP_POOL_MAX", 8, most=1000)),
        )

    def conninfo(self) -> Conninfo:
        """Resolve the DSN as it is now; the server shows us as ``service@release``.

        A connection that is dead without a word (a cable, a firewall) is noticed within seconds, not hours.
        """
        told = Conninfo.parse(resolve(self.dsn, environ=self.environ).reveal())
        defaults = {"connect_timeout": "5", "tcp_user_timeout": "10000", "keepalives_idle": "30"}
        name = f"{self.service}@{self.release}"
        return Conninfo({**defaults, **told.params, "application_name": name}, told.password)

    def flags(self) -> Flags:
        """Read the flags as they are now. Errors: ``ConfigError`` for all but an object of known booleans."""
        if self.flags_file is None:
            return Flags()
        try:
            told = json.loads(self.flags_file.read_bytes())
        except (OSError, ValueError) as exc:
            raise ConfigError(f"cannot read flags '{self.flags_file}': {exc}") from exc
        known = {field.name for field in fields(Flags)}
        if not isinstance(told, dict) or not told.keys() <= known or {type(v) for v in told.values()} - {bool}:
            raise ConfigError(f"flags '{self.flags_file}' must be an object of booleans, of {', '.join(sorted(known))}")
        return Flags(**told)

    def subkey(self, purpose: str) -> bytes:
        """Derive the key of one purpose, so that a token is never a valid cursor or the reverse."""
        return hmac.digest(self.session_key.reveal().encode(), f"dbsec app {purpose} v1".encode(), "sha256")


def _required(environ: Mapping[str, str], name: str) -> str:
    if not environ.get(name):
        raise ConfigError(f"{name} is not set", hint=f"export {name}=file:/path/to/it")
    return environ[name]


def _columns(environ: Mapping[str, str], name: str) -> frozenset[str]:
    told = frozenset(filter(None, environ.get(name, "").split(",")))
    if unknown := told - _ENCRYPTABLE:
        raise ConfigError(f"{name} names '{min(unknown)}'", hint=f"{name}={','.join(sorted(_ENCRYPTABLE))}, or some")
    return told


def number(environ: Mapping[str, str], name: str, default: float, *, most: float) -> float:
    """Read a number from 1 to ``most``. Errors: ``ConfigError`` naming the variable."""
    try:
        value = float(environ.get(name, default))
    except ValueError as exc:
        raise ConfigError(f"{name} is not a number") from exc
    if not 1 <= value <= most:
        raise ConfigError(f"{name} is {value:g}: it must be 1 to {most:g}")
    return value
