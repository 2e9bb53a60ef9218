"""MariaDB as a server whose certificate changes (MySQL by its own statement, unproven)."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import unquote, urlsplit

from dbsec.errors import ConfigError, ConnectError, ProgramMissing
from dbsec.secret import Secret
from dbsec.tls import prober
from dbsec.tls.context import client_context
from dbsec.tls.data_folder import DataFolder
from dbsec.tls.prober import Protocol
from dbsec.tls.prober.greeting import Target
from dbsec.tls.rotation import Files

# a PEP 249 connection of PyMySQL over TCP, under this context; None is in clear, where the server has no TLS yet
Connect = Callable[[ssl.SSLContext | None], Any]
_NAMES = ("ssl_cert", "ssl_key", "ssl_ca", "ssl_crl")


class MariaDbServer:
    """MariaDB on this machine. ``connect`` logs in over TCP under a context: PyMySQL's ``ssl=`` takes it.

    ``ssl_crl`` is read at the start alone. Source: MariaDB, "FLUSH SSL"; MySQL, "ALTER INSTANCE RELOAD TLS".
    """

    def __init__(self, connect: Connect, folder: DataFolder, *, address: str, port: int) -> None:
        self._connect, self.folder = connect, folder
        self._target = Target(address, port, Protocol.MYSQL)
        with closing(connect(client_context(None))) as session:
            values = self._variables(session, _NAMES)
            (version,) = self._row(session, "SELECT VERSION()")
        self.files = Files(*(values[name] for name in _NAMES))
        self._reload = "FLUSH SSL" if "MariaDB" in str(version) else "ALTER INSTANCE RELOAD TLS"
        self._sessions = 0

    def served(self) -> str | None:
        """Fetch the certificate."""
        return prober.served(self._target)

    def reload(self) -> None:
        """Let it read certificate, key and CA again; sessions go on. A pair that does not match is an error at once."""
        with closing(self._connect(client_context(None))) as session:
            (count,) = self._row(session, "SELECT COUNT(*) FROM information_schema.processlist WHERE HOST LIKE '%:%'")
            self._sessions = int(count) - 1
            try:
                session.cursor().execute(self._reload)
            except Exception as exc:  # the driver's own class, which is not imported here
                raise ConnectError(f"{self._reload} is refused: {exc}", hint="see the server's log") from exc

    def comes_back(self, ca: bytes) -> None:
        """Log in, checking CA and host name."""
        try:
            self._connect(client_context(ca)).close()
        except Exception as exc:  # as above
            raise ConnectError(f"no login under the new certificate: {exc}") from exc

    def sessions_before(self) -> int:
        """Return the sessions over the network that were there at the reload."""
        return self._sessions

    def check(self) -> None:
        """Look whether it has a certificate at all. Errors: ``ConfigError``."""
        if not (self.files.certificate and self.files.key):
            raise ConfigError("the server has no ssl_cert and ssl_key", hint="set both in its option file, and restart")

    def _variables(self, session: Any, names: tuple[str, ...]) -> dict[str, str]:
        cursor = session.cursor()
        cursor.execute("SHOW GLOBAL VARIABLES LIKE 'ssl%'")
        found = {str(name): str(value or "") for name, value in cursor.fetchall()}
        return {name: found.get(name, "") for name in names}

    def _row(self, session: Any, query: str) -> tuple[Any, ...]:
        cursor = session.cursor()
        cursor.execute(query)
        return tuple(cursor.fetchone())


def by_pymysql(url: Secret) -> tuple[Connect, str, int]:
    """Return what logs in by ``mysql://user:password@host:port/``, the host and the port.

    Errors: ``ConfigError``, which does not repeat the URL; ``ProgramMissing``.
    """
    try:
        import pymysql
    except ModuleNotFoundError as exc:
        raise ProgramMissing("PyMySQL is not installed", hint="pip install 'dbsec[mysql]'") from exc
    try:
        parts = urlsplit(url.reveal())
        host, port = parts.hostname, parts.port or 3306
    except ValueError:
        host, port, parts = None, 0, urlsplit("")
    if not host or not parts.username or not parts.scheme.startswith(("mysql", "mariadb")):
        raise ConfigError(
            "the DSN is no URL of MariaDB", hint="mysql://user:password@host:3306/, by env:NAME or file:PATH"
        )
    user, password = unquote(parts.username), unquote(parts.password or "")

    def connect(context: ssl.SSLContext | None) -> Any:
        how = {"ssl": context} if context is not None else {"ssl_disabled": True}
        return pymysql.connect(host=host, port=port, user=user, password=password, connect_timeout=5, **how)

    return connect, host, port
