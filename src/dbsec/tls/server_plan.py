"""How a running PostgreSQL differs from a posture: read-only, as data, for a person to read before it is applied."""

from __future__ import annotations

import difflib
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from dbsec.clock import SYSTEM
from dbsec.errors import ConfigError, UsageError
from dbsec.pg import facts
from dbsec.pg.hba import render
from dbsec.tls import probe
from dbsec.tls.context import client_context, server_context
from dbsec.tls.data_folder import DataFolder
from dbsec.tls.issuers import checks
from dbsec.tls.posture import CLIENT_CA_FILE, CRL_FILE, Posture

_HEADER = "written by dbsec: the first line that matches a connection decides"
_PLACES: LiteralString = "SELECT current_setting('data_directory'), current_setting('hba_file')"
_OWN_SETTINGS: LiteralString = """
SELECT name, setting FROM pg_file_settings WHERE sourcefile LIKE '%/postgresql.auto.conf' ORDER BY seqno
"""
_SECRET_OPTION = re.compile(r"(ldapbindpasswd|radiussecrets)=.*")


@dataclass(frozen=True, slots=True)
class SettingChange:
    """One setting. ``own`` is what ALTER SYSTEM has set so far, None where it has not: the way back."""

    name: str
    old: str
    new: str
    own: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``apply`` will do. Fingerprints are SHA-256 in hex; ``certificate_old`` is None where TLS is off."""

    posture: Posture
    settings: tuple[SettingChange, ...]
    hba_file: str
    hba_old: str = field(repr=False)
    hba_new: str = field(repr=False)
    certificate_old: str | None
    certificate_new: str
    client_ca_changes: bool
    crl_changes: bool = False

    @property
    def empty(self) -> bool:
        same = (self.hba_old, self.certificate_old) == (self.hba_new, self.certificate_new)
        return same and not self.settings and not self.client_ca_changes and not self.crl_changes

    def render(self) -> str:
        """Write it for a person: certificate, settings, hba as a unified diff; no key and no secret."""
        if self.empty:
            return "nothing to change\n"
        lines = [f"certificate  {(self.certificate_old or 'none')[:16]} -> {self.certificate_new[:16]}"]
        lines += ["client CA    replaced"] if self.client_ca_changes else []
        lines += ["revoked      list replaced"] if self.crl_changes else []
        lines += [f"setting      {c.name}: {c.old or 'none'} -> {c.new}" for c in self.settings]
        hba = difflib.unified_diff(
            self.hba_old.splitlines(), self.hba_new.splitlines(), f"{self.hba_file} (now)", "(planned)", lineterm=""
        )
        return "\n".join([*lines, *(_SECRET_OPTION.sub(r"\1=<redacted>", line) for line in hba)]) + "\n"


def plan(connection: psycopg.Connection[Any], folder: DataFolder, posture: Posture) -> Plan:
    """Compare a server with a posture; changes nothing.

    Needs a superuser who came over the network, and the server's files. Errors: ``UsageError`` for another server's
    folder or a Unix socket; ``ConfigError`` for a setting that this version does not know, or for a key, certificate
    or CA that no TLS library would load.
    """
    _check_loads(posture)
    data_directory, hba_file = connection.execute(_PLACES).fetchone() or ("", "")
    if Path(data_directory).resolve() != folder.path.resolve():
        raise UsageError(f"'{folder.path}' is not the data folder of this server: that is '{data_directory}'")
    return Plan(
        posture,
        _setting_changes(connection, posture.all_settings),
        hba_file,
        (folder.read(hba_file) or b"").decode("utf-8", "surrogateescape"),
        render(posture.hba, header=_HEADER),
        served_fingerprint(connection),
        posture.certificate.fingerprint,
        folder.read(CLIENT_CA_FILE) != posture.client_ca,
        posture.crl is not None and folder.read(CRL_FILE) != posture.crl,
    )


def served_fingerprint(connection: psycopg.Connection[Any]) -> str | None:
    """Fetch the certificate that the server behind a connection serves now; None where it offers no TLS."""
    info = connection.info
    if info.host.startswith("/"):
        raise UsageError("a certificate is proven on the network: connect by host name, not by a Unix socket")
    served = probe.certificate(info.hostaddr or info.host, info.port, server_name=info.host, ca=None)
    return served.fingerprint if isinstance(served, probe.Served) else None


def own_settings(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Return what ALTER SYSTEM has set so far."""
    return dict(connection.execute(_OWN_SETTINGS).fetchall())


def _check_loads(posture: Posture) -> None:
    """Load what the server will load: it would refuse in its log alone, go on as before, and not start again."""
    try:
        server_context(posture.certificate)
    except ssl.SSLError as exc:
        raise ConfigError(f"the server's key and certificate do not go together: {exc.reason or exc}") from exc
    for name, ca in (("clients", posture.server_ca), ("the server", posture.client_ca)):
        try:
            client_context(ca)
        except (ssl.SSLError, ValueError) as exc:
            raise ConfigError(f"the CA that {name} shall trust is not a certificate in PEM") from exc
    if posture.crl is not None:
        checks.check_crl(posture.crl, posture.client_ca, now=SYSTEM.now())


def _setting_changes(connection: psycopg.Connection[Any], wanted: Mapping[str, str]) -> tuple[SettingChange, ...]:
    found = facts.settings(connection, list(wanted))
    own = own_settings(connection)
    if unknown := sorted(wanted.keys() - found.keys()):
        raise ConfigError(f"this PostgreSQL has no setting '{unknown[0]}'", hint="leave it out for this version")
    return tuple(
        SettingChange(name, found[name].value, value, own.get(name))
        for name, value in wanted.items()
        if found[name].value != value
    )
