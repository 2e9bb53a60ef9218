"""A DSN in any spelling, as a driver and its parameters; the password is never kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from dbsec.errors import ConfigError


class Driver(StrEnum):
    """Whose rules hold. psycopg, psycopg2 and psql are libpq."""

    LIBPQ = "libpq"
    ASYNCPG = "asyncpg"
    PYMYSQL = "PyMySQL"
    PGJDBC = "PostgreSQL JDBC"
    CONNECTOR_J = "MySQL Connector/J"
    MARIADB_J = "MariaDB Connector/J"


class Spelling(StrEnum):
    """How it was written, and so how its repair is written."""

    URL = "url"
    KEYWORDS = "keywords"
    CALL = "call"
    SERVICE = "service"


POOLER_PORT = "6432"
_SECRET = ("password", "passwd", "sslpassword", "ssl_key_password", "trustcertificatekeystorepassword")
_BY_SCHEME: Mapping[str, Driver] = {
    "postgres": Driver.LIBPQ,
    "postgresql": Driver.LIBPQ,
    "postgresql+psycopg": Driver.LIBPQ,
    "postgresql+psycopg_async": Driver.LIBPQ,
    "postgresql+psycopg2": Driver.LIBPQ,
    "postgresql+asyncpg": Driver.ASYNCPG,
    "mysql": Driver.PYMYSQL,
    "mysql+pymysql": Driver.PYMYSQL,
    "mariadb": Driver.PYMYSQL,
    "mariadb+pymysql": Driver.PYMYSQL,
    "jdbc:postgresql": Driver.PGJDBC,
    "jdbc:mysql": Driver.CONNECTOR_J,
    "jdbc:mariadb": Driver.MARIADB_J,
}
_PAIR = re.compile(r"\s*([a-z_]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)+))")
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Dsn:
    """Parameters by their driver's own names, ``host``, ``port``, ``user`` and ``dbname`` among them.

    ``has_password`` says that one stands in it. ``where``: file and line, for findings.
    """

    driver: Driver
    spelling: Spelling
    params: Mapping[str, str]
    scheme: str = ""
    has_password: bool = False
    where: Mapping[str, str | int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def host(self) -> str:
        return self.params.get("host", "")

    @property
    def local(self) -> bool:
        """Whether it goes over a Unix socket: nobody is on the way."""
        if self.driver is Driver.LIBPQ:
            return not (self.host or self.params.get("hostaddr")) or self.host.startswith(("/", "@"))
        return "unix_socket" in self.params

    @property
    def pooler(self) -> bool:
        """Whether PgBouncer's port is dialled: channel binding cannot reach through it."""
        return self.params.get("port") == POOLER_PORT

    def written(self, params: Mapping[str, str] | None = None) -> str:
        """Write it as it was spelt, a password as ``***``."""
        shown = dict(self.params if params is None else params)
        if self.spelling is Spelling.URL:
            return self._url(shown)
        if self.has_password:
            shown["password"] = "***"  # noqa: S105 this is no password
        if self.spelling is Spelling.CALL:
            return ", ".join(f"{name}={value!r}" for name, value in shown.items())
        if self.spelling is Spelling.SERVICE:
            return "\n".join(f"{name}={value}" for name, value in shown.items())
        return " ".join(f"{name}={_quoted(value)}" for name, value in shown.items())

    def _url(self, shown: dict[str, str]) -> str:
        user, host, port, dbname = (shown.pop(name, "") for name in ("user", "host", "port", "dbname"))
        who = quote(user, safe="") + (":***" if self.has_password and user else "") + ("@" if user else "")
        query = "&".join(f"{name}={quote(value, safe='/:,-')}" for name, value in shown.items())
        address = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{who}{address}{f':{port}' if port else ''}/{dbname}{'?' + query if query else ''}"


def parse(text: str, *, driver: Driver | None = None) -> Dsn:
    """Read a URL or libpq's ``name=value`` form. Errors: ``ConfigError``, which does not repeat the text."""
    text = text.strip()
    if "://" in text:
        return _of_url(text, driver)
    pairs = list(_PAIR.finditer(text))
    if not pairs or "".join(pair.group(0) for pair in pairs) != text:
        raise ConfigError("this is no DSN", hint="a URL, or libpq's host=... dbname=... form")
    values = {m[1]: _ESCAPED.sub(r"\1", m[2] if m[2] is not None else m[3]) for m in pairs}
    return of_params(values, driver or Driver.LIBPQ, Spelling.KEYWORDS)


def of_params(
    values: Mapping[str, str], driver: Driver, spelling: Spelling, *, scheme: str = "", has_password: bool = False
) -> Dsn:
    """Make a DSN of named values; secrets are dropped."""
    has_password = has_password or any(values.get(name) for name in ("password", "passwd"))
    kept = {name: value for name, value in values.items() if name.lower() not in _SECRET}
    return Dsn(driver, spelling, kept, scheme, has_password)


def _of_url(text: str, driver: Driver | None) -> Dsn:
    scheme, _, rest = text.partition("://")
    known = _BY_SCHEME.get(scheme.lower())
    if known is None:
        raise ConfigError(f"'{scheme[:24]}' is no scheme that is known", hint=", ".join(sorted(_BY_SCHEME)))
    try:
        parts = urlsplit(f"x://{rest}")
        port, host = parts.port, parts.hostname
    except ValueError as exc:
        raise ConfigError("the URL's host or port cannot be read") from exc
    values = {
        "host": unquote(host or ""),
        "port": str(port or ""),
        "user": unquote(parts.username or ""),
        "dbname": unquote(parts.path.lstrip("/")),
        **dict(parse_qsl(parts.query, keep_blank_values=True)),
    }
    return of_params(
        {name: value for name, value in values.items() if value},
        driver or known,
        Spelling.URL,
        scheme=scheme,
        has_password=parts.password is not None,
    )


def _quoted(value: str) -> str:
    if value and not set(value) & set(" '\\"):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
