"""Where a server is and how to prove who we are: libpq's connection parameters, with a password that does not print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dbsec.errors import ConfigError
from dbsec.secret import Secret

# What is secret beside the password; 18 knows more of these than 17.
_HIDDEN = {"sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"}


@dataclass(frozen=True, slots=True)
class Conninfo:
    """libpq parameters by name; ``password`` apart. Source: PostgreSQL, "Parameter Key Words"."""

    params: Mapping[str, str] = field(default_factory=dict)
    password: Secret | None = None

    @classmethod
    def parse(cls, text: str) -> Conninfo:
        """Read a libpq string or a ``postgresql://`` URL. Errors: ``ConfigError``, which does not repeat the text."""
        try:
            parsed = {k: str(v) for k, v in conninfo_to_dict(text).items() if v is not None}
        except ProgrammingError:
            raise ConfigError(
                "the connection string is not one that libpq reads",
                hint="write 'host=... port=... dbname=... user=...' or postgresql://user@host/dbname",
            ) from None  # the cause quotes a part of the text
        password = parsed.pop("password", None)
        return cls(parsed, Secret(password) if password is not None else None)

    @classmethod
    def local(cls, port: int, *, user: str, dbname: str, password: Secret | None = None, **params: Any) -> Conninfo:
        """Address a server on this machine by the name that its certificate bears.

        ``hostaddr`` is given too: no name service is asked, and ::1 is not tried.
        """
        own = {"host": "localhost", "hostaddr": "127.0.0.1", "port": str(port), "user": user, "dbname": dbname}
        return cls({**own, **{k: str(v) for k, v in params.items()}}, password)

    def but(self, *, password: Secret | None = None, **changes: str | int | Path | None) -> Conninfo:
        """Return a copy with other parameters; None removes one."""
        merged = {**self.params, **{k: None if v is None else str(v) for k, v in changes.items()}}
        kept = {k: v for k, v in merged.items() if v is not None}
        return replace(self, params=kept, password=password or self.password)

    def text(self) -> str:
        """Write libpq's form, password included: for a private file or a driver, never for a log."""
        secret = {"password": self.password.reveal()} if self.password else {}
        return make_conninfo(**dict(self.params), **secret)

    def passfile_line(self) -> str:
        """Write a ``.pgpass`` line for this host, port and user, for any database. Source: "The Password File"."""
        fields = (self.host, str(self.port), "*", self.user, self.password.reveal() if self.password else "")
        return ":".join(f.replace("\\", "\\\\").replace(":", "\\:") if f != "*" else f for f in fields) + "\n"

    @property
    def host(self) -> str:
        return self.params.get("host", "localhost")

    @property
    def address(self) -> str:
        """Return where TCP goes: hostaddr where one is given."""
        return self.params.get("hostaddr", self.host)

    @property
    def port(self) -> int:
        return int(self.params.get("port", "5432"))

    @property
    def user(self) -> str:
        return self.params.get("user", "")

    @property
    def dbname(self) -> str:
        return self.params.get("dbname", self.user)

    def __repr__(self) -> str:
        shown = {name: "***" if name in _HIDDEN else value for name, value in self.params.items()}
        return f"<Conninfo {make_conninfo(**shown)}>"

    __str__ = __repr__
