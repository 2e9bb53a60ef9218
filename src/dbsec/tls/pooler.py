"""PgBouncer as a server whose certificate changes, and what its TLS cannot do."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg

from dbsec.errors import ApplyError, ConfigError
from dbsec.findings import Finding, Severity
from dbsec.pg import Conninfo, connect
from dbsec.tls import prober
from dbsec.tls.data_folder import DataFolder
from dbsec.tls.prober import Protocol
from dbsec.tls.prober.greeting import Target
from dbsec.tls.rotation import Files, connect_trusting


class PgBouncerServer:
    """PgBouncer on this machine; ``admin`` is a login of its console, and a database that logins go through."""

    def __init__(self, admin: Conninfo, config: Path, *, dbname: str) -> None:
        settings = read(config)
        self.folder = DataFolder(config.parent)
        self.files = Files(
            settings.get("client_tls_cert_file", ""),
            settings.get("client_tls_key_file", ""),
            settings.get("client_tls_ca_file", ""),
        )
        self._admin, self._dbname = admin, dbname
        self._target = Target(admin.address, admin.port, Protocol.POSTGRES)
        self._clients = 0

    def served(self) -> str | None:
        """Fetch the certificate."""
        return prober.served(self._target)

    def reload(self) -> None:
        """Send RELOAD to the console; clients that are connected go on."""
        with self._console() as console:
            self._clients = console.pgconn.exec_(b"SHOW CLIENTS").ntuples - 1
            answer = console.pgconn.exec_(b"RELOAD")
            if answer.error_message:
                raise ApplyError(
                    f"PgBouncer does not reload: {answer.error_message.decode('utf-8', 'replace').strip()}"
                )

    def comes_back(self, ca: bytes) -> None:
        """Log in through it by verify-full."""
        with connect_trusting(self._admin.but(dbname=self._dbname), ca):
            pass

    def sessions_before(self) -> int:
        """Return the clients that were there at the reload."""
        return self._clients

    def check(self) -> None:
        """Look whether it has a certificate at all. Errors: ``ConfigError``."""
        if not (self.files.certificate and self.files.key):
            raise ConfigError("PgBouncer has no client_tls_cert_file and client_tls_key_file", hint="set both")

    def _console(self) -> psycopg.Connection[Any]:
        # the console knows no parameters and no extended protocol
        return connect(self._admin.but(dbname="pgbouncer"))


def read(config: Path) -> Mapping[str, str]:
    """Read ``[pgbouncer]`` of a pgbouncer.ini. Errors: ``ConfigError``."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=(";", "#"))
    try:
        parser.read_string(config.read_text("utf-8"))
        return dict(parser["pgbouncer"])
    except (OSError, KeyError, configparser.Error) as exc:
        raise ConfigError(f"cannot read '{config}': {exc}", hint="name pgbouncer.ini") from exc


_STRICT = ("verify-full", "verify-ca")


def check(settings: Mapping[str, str], *, target: str = "pgbouncer") -> list[Finding]:
    """Name what its TLS lets through, what is set and what no setting can mend.

    Measured with 1.18: client_tls_sslmode=verify-full does not bind the common name to the user under scram, there is
    no revocation list, and channel binding cannot reach through it.
    """
    found = []

    def add(code: str, name: str, message: str, fix: str, severity: Severity = Severity.ERROR) -> None:
        found.append(Finding(code, name, severity, target, message, fix))

    client, server = settings.get("client_tls_sslmode", "disable"), settings.get("server_tls_sslmode", "prefer")
    if client not in ("require", *_STRICT):
        add("TLS401", "allow-client-in-clear", f"client_tls_sslmode is {client}", "client_tls_sslmode = require")
    if server != "verify-full":
        fix = "server_tls_sslmode = verify-full, and server_tls_ca_file"
        add("TLS402", "allow-any-server", f"server_tls_sslmode is {server}: whoever answers is the server", fix)
    if settings.get("auth_type", "md5") not in ("scram-sha-256", "cert", "hba"):
        message = f"auth_type is {settings.get('auth_type', 'md5')}"
        add("TLS403", "allow-weak-login", message, "auth_type = scram-sha-256")
    for side in ("client", "server"):
        protocols = settings.get(f"{side}_tls_protocols", "secure")
        if any(old in protocols.split(",") for old in ("all", "legacy", "tlsv1.0", "tlsv1.1")):
            message = f"{side}_tls_protocols is {protocols}"
            add("TLS404", "allow-old-protocol", message, f"{side}_tls_protocols = secure")
    if client in _STRICT and settings.get("auth_type") != "cert":
        message = "a client certificate need not bear its user's name: any that the CA has signed will do"
        fix = "auth_type = hba with 'cert' lines in auth_hba_file, or a CA for the pooler's clients alone"
        add("TLS405", "allow-another-name", message, fix, Severity.WARNING)
    if client in _STRICT:
        message = "PgBouncer reads no revocation list: a revoked certificate is good until it ends"
        add(
            "TLS406",
            "allow-revoked",
            message,
            "certificates of hours: dbsec tls ca issue --lifetime 24h",
            Severity.WARNING,
        )
    return found
