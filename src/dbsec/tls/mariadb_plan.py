"""Bring a MariaDB to TLS only: an option file, the certificate, what each account must show; proven, or put back.

MySQL takes the same statements but for the reload (``ALTER INSTANCE RELOAD TLS``), and was run on no server here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ApplyError, ConfigError, DbsecError, reason
from dbsec.progress import Progress, Silent
from dbsec.tls import undo
from dbsec.tls.ca import SERVER, KeyPair
from dbsec.tls.context import client_context
from dbsec.tls.data_folder import DataFolder
from dbsec.tls.issuers import checks
from dbsec.tls.mariadb import Connect, MariaDbServer

_SILENT: Progress = Silent()
_NOTE = "dbsec_tls_mariadb.json"
CERTIFICATE, KEY, CLIENT_CA, CRL = "dbsec-server.crt", "dbsec-server.key", "dbsec-client-ca.crt", "dbsec-client-ca.crl"
_DEMAND = re.compile(r"NONE|SSL|X509|(?:(?:SUBJECT|ISSUER|CIPHER) '[^'\\]*'(?: AND )?)+")
_ACCOUNT = re.compile(r"([^@'`\\]+)@([^@'`\\]+)")
_SHOWN = re.compile(r" REQUIRE (.*?)(?= WITH | PASSWORD | ACCOUNT |$)")


@dataclass(frozen=True, slots=True)
class MariaPosture:
    """``accounts``: ``user@host`` to what it must show: ``SSL``, ``X509``, ``SUBJECT '/CN=...'``; ``ca`` (PEM) is what
    clients check ``certificate`` by, ``client_ca`` who signs theirs. A list (``crl``) is read at a start alone.
    """

    certificate: KeyPair
    ca: bytes
    client_ca: bytes
    crl: bytes | None = None
    accounts: Mapping[str, str] = field(default_factory=dict)
    versions: str = "TLSv1.2,TLSv1.3"
    cipher: str = ""

    def files(self) -> dict[str, bytes]:
        """Return the files by name, the key first."""
        found = {KEY: self.certificate.key, CERTIFICATE: self.certificate.certificate, CLIENT_CA: self.client_ca}
        return found | ({CRL: self.crl} if self.crl is not None else {})

    def variables(self, folder: Path) -> dict[str, str]:
        """Return what the option file sets."""
        wanted = {
            "ssl_cert": str(folder / CERTIFICATE),
            "ssl_key": str(folder / KEY),
            "ssl_ca": str(folder / CLIENT_CA),
            "tls_version": self.versions,
            "require_secure_transport": "ON",
        }
        wanted |= {"ssl_crl": str(folder / CRL)} if self.crl is not None else {}
        return wanted | ({"ssl_cipher": self.cipher} if self.cipher else {})


@dataclass(frozen=True, slots=True)
class MariaPlan:
    """What ``apply`` will do. ``restart`` names variables that a running server does not change."""

    posture: MariaPosture
    option_file: str
    options_change: bool
    certificate_changes: bool
    transport: bool
    restart: tuple[str, ...]
    accounts: Mapping[str, tuple[str, str]]

    @property
    def empty(self) -> bool:
        return not (self.options_change or self.certificate_changes or self.transport or self.restart or self.accounts)

    def render(self) -> str:
        """Write it for a person; no key, and no hash."""
        if self.empty:
            return "nothing to change\n"
        lines = [f"certificate  -> {self.posture.certificate.fingerprint[:16]}"] if self.certificate_changes else []
        lines += [f"option file  {self.option_file} is written"] if self.options_change else []
        lines += ["variable     require_secure_transport -> ON"] if self.transport else []
        lines += [f"account      {name}: REQUIRE {old} -> {new}" for name, (old, new) in self.accounts.items()]
        lines += [f"restart      for {', '.join(self.restart)}: nothing is required before"] if self.restart else []
        return "\n".join(lines) + "\n"


def plan(
    connect: Connect,
    folder: DataFolder,
    option_file: Path,
    posture: MariaPosture,
    *,
    tls: bool,
    clock: Clock = SYSTEM,
) -> MariaPlan:
    """Compare a server with a posture; changes nothing. ``folder`` is where certificate and key will lie;
    ``tls``: whether the server offers TLS by now.

    Errors: ``ConfigError`` for a certificate that would not do, an account that is not there, a demand that is none.
    """
    checks.check(posture.certificate, posture.ca, use=SERVER, now=clock.now())
    if posture.crl is not None:
        checks.check_crl(posture.crl, posture.client_ca, now=clock.now())
    wanted = posture.variables(folder.path)
    with _session(connect, tls=tls) as session:
        found = _variables(session)
        accounts = {name: (_shown(session, name), demand) for name, demand in posture.accounts.items()}
    text = _option_text(wanted).encode()
    fixed = tuple(n for n, v in wanted.items() if n != "require_secure_transport" and found.get(n, "") != v)
    return MariaPlan(
        posture,
        str(option_file),
        folder.read(str(option_file)) != text,
        any(folder.read(name) != content for name, content in posture.files().items()),
        found.get("require_secure_transport") != "ON",
        fixed,
        {name: (old, new) for name, (old, new) in accounts.items() if old != new},
    )


def apply(
    connect: Connect,
    folder: DataFolder,
    planned: MariaPlan,
    *,
    address: str,
    port: int,
    progress: Progress = _SILENT,
) -> bool:
    """Write the files, reload, and require TLS where the certificate is served and the login comes back by it.

    Returns False where the server has to be restarted first: then nothing is required yet, and the next ``apply`` does.
    Errors: ``ApplyError``; files, variable and accounts are then as before.
    """
    recover(folder)
    posture = planned.posture
    options = {planned.option_file: _option_text(posture.variables(folder.path)).encode()}
    before = {name: folder.read(name) for name in (*posture.files(), *options)}
    undo.keep(folder, _NOTE, undo.Before(before))
    with ExitStack() as stack:
        # open before the change: what is required in it cannot shut this session out of the way back
        session = None if planned.restart else stack.enter_context(_session(connect))
        done: list[str] = []
        try:
            for name, content in {**posture.files(), **options}.items():
                folder.write(name, content)
            if session is None:
                progress.step(f"restart the server for {', '.join(planned.restart)}, and apply again")
            else:
                server = MariaDbServer(connect, folder, address=address, port=port)
                _require(session, server, planned, done, progress)
        except BaseException as exc:
            progress.step("rolling back")
            _put_back(session, folder, done)
            if not isinstance(exc, (DbsecError, OSError)):
                raise
            raise ApplyError(f"MariaDB's TLS was rolled back: {reason(exc)}", hint="see the server's log") from exc
    undo.drop(folder, _NOTE)
    return not planned.restart


def recover(folder: DataFolder) -> bool:
    """Put back the files of an ``apply`` that was killed; True where there were some. Accounts are set by the next."""
    before = undo.kept(folder, _NOTE)
    if before is None:
        return False
    for name, data in before.files.items():
        folder.restore(name, data)
    undo.drop(folder, _NOTE)
    return True


def _require(session: Any, server: MariaDbServer, planned: MariaPlan, done: list[str], progress: Progress) -> None:
    """Reload and prove, then require; ``done`` gets the statement that takes each step back."""
    posture = planned.posture
    server.reload()
    if server.served() != posture.certificate.fingerprint:
        raise ApplyError("the new certificate is not served after the reload")
    server.comes_back(posture.ca)
    progress.step("the certificate is served, and the login came back by it")
    if planned.transport:
        done.append("SET GLOBAL require_secure_transport = OFF")
        session.cursor().execute("SET GLOBAL require_secure_transport = ON")
    for name, (old, new) in planned.accounts.items():
        done.append(f"ALTER USER {_quoted(name)} REQUIRE {old}")
        session.cursor().execute(f"ALTER USER {_quoted(name)} REQUIRE {new}")
    server.comes_back(posture.ca)  # what is required now may not shut out whoever requires it


def _put_back(session: Any, folder: DataFolder, done: list[str]) -> None:
    recover(folder)
    if session is None:
        return
    for statement in reversed(done):
        session.cursor().execute(statement)
    session.cursor().execute("FLUSH SSL")


@contextmanager
def _session(connect: Connect, *, tls: bool = True) -> Iterator[Any]:
    """Connect, and turn what the driver raises into ours: its class is not imported here."""
    try:
        with closing(connect(client_context(None) if tls else None)) as session:
            yield session
    except DbsecError:
        raise
    except Exception as exc:
        raise ApplyError(f"MariaDB refuses: {exc}", hint="the login needs RELOAD, CREATE USER and SET GLOBAL") from exc


def _variables(session: Any) -> dict[str, str]:
    cursor = session.cursor()
    cursor.execute("SHOW GLOBAL VARIABLES")
    return {str(name): str(value or "") for name, value in cursor.fetchall()}


def _shown(session: Any, account: str) -> str:
    cursor = session.cursor()
    cursor.execute(f"SHOW CREATE USER {_quoted(account)}")
    found = _SHOWN.search(str(cursor.fetchone()[0]))
    return found[1].strip() if found else "NONE"


def demands(given: Mapping[str, str]) -> dict[str, str]:
    """Check accounts and what they must show. Errors: ``ConfigError``."""
    for account, demand in given.items():
        if not _ACCOUNT.fullmatch(account):
            raise ConfigError(f"'{account}' is no account", hint="user@host, as in mysql.user")
        if not _DEMAND.fullmatch(demand):
            raise ConfigError(f"'{demand}' is nothing to require", hint="SSL, X509, or SUBJECT '/CN=name'")
    return dict(given)


def _quoted(account: str) -> str:
    found = _ACCOUNT.fullmatch(account)
    if found is None:
        raise ConfigError(f"'{account}' is no account", hint="user@host, as in mysql.user")
    return f"'{found[1]}'@'{found[2]}'"


def _option_text(wanted: Mapping[str, str]) -> str:
    lines = "".join(f"{name} = {value}\n" for name, value in wanted.items())
    return f"# written by dbsec tls apply-mariadb\n[mysqld]\n{lines}"
