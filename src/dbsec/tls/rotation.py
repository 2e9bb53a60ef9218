"""Change a server's certificate under its clients: checked, swapped, proven on the wire, undone where it fails."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, Protocol

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from dbsec import retry
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ApplyError, ConfigError, DbsecError, GaveUp, reason
from dbsec.pg import Conninfo, connect
from dbsec.progress import Progress, Silent
from dbsec.tls import probe, undo
from dbsec.tls.ca import SERVER, KeyPair
from dbsec.tls.data_folder import DataFolder
from dbsec.tls.issuers import checks
from dbsec.tls.server_config import reload

_SILENT: Progress = Silent()
_NOTE = "dbsec_tls_rotation.json"
_NAMES: LiteralString = """
SELECT current_setting('ssl_cert_file'), current_setting('ssl_key_file'), current_setting('ssl_ca_file'),
       current_setting('ssl_crl_file')
"""
_HBA_ERRORS: LiteralString = "SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL"
_OLD_SESSIONS: LiteralString = """
SELECT count(*) FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid)
 WHERE s.ssl AND a.backend_start < pg_conf_load_time() AND a.pid <> pg_backend_pid()
"""


@dataclass(frozen=True, slots=True)
class Files:
    """Where the server takes its files from, as it names them; "" where it has none."""

    certificate: str
    key: str
    client_ca: str = ""
    crl: str = ""


class Server(Protocol):
    """A server whose certificate changes. ``folder`` holds its files."""

    folder: DataFolder
    files: Files

    def served(self) -> str | None:
        """Return the fingerprint on the wire; None without TLS."""
        ...

    def reload(self) -> None:
        """Let the server read its files again."""
        ...

    def comes_back(self, ca: bytes) -> None:
        """Log in anew, trusting ``ca`` alone. Errors: ``ConnectError``."""
        ...

    def sessions_before(self) -> int:
        """Count the sessions that began before the last reload: they go on under the old certificate."""
        ...

    def check(self) -> None:
        """Look for what would make a reload fail. Errors: ``ConfigError``."""
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be served: ``ca`` (PEM) is what clients trust from now on; the rest stays as it is where None.

    A ``client_ca`` is added to those that the server trusts: certificates of the old one are good until it is dropped.
    """

    pair: KeyPair
    ca: bytes
    client_ca: bytes | None = None
    crl: bytes | None = None
    drop_old_ca: bool = False


@dataclass(frozen=True, slots=True)
class Rotated:
    """Fingerprints (SHA-256, hex), the time from reload to the new one on the wire, sessions under the old one."""

    old: str | None
    new: str
    served_after_s: float
    sessions_before: int


def preflight(server: Server, change: Change, *, clock: Clock = SYSTEM) -> None:
    """Check key, chain, dates, use, the names that are served now, the list, and the server's own configuration.

    Errors: ``ConfigError``, before anything is written.
    """
    held = server.folder.read(server.files.certificate)
    covers = checks.names(x509.load_pem_x509_certificate(held)) if held else ()
    checks.check(change.pair, change.ca, use=SERVER, now=clock.now(), covers=covers)
    for what, name, content in (
        ("client CA", server.files.client_ca, change.client_ca),
        ("revocation list", server.files.crl, change.crl),
    ):
        if content is not None and not name:
            raise ConfigError(f"the server has no file for its {what}", hint="dbsec tls apply")
    if change.crl is not None:
        checks.check_crl(change.crl, _bundle(server, change) or b"", now=clock.now())
    server.check()


def rotate(
    server: Server, change: Change, *, progress: Progress = _SILENT, clock: Clock = SYSTEM, within_s: float = 5.0
) -> Rotated:
    """Swap the files, reload, and prove on the wire that the new certificate is served and a login comes back.

    No session ends. Errors: ``ConfigError`` before anything is written; ``ApplyError`` after the old files are back and
    served again. What a kill -9 leaves is put back by ``recover``.
    """
    recover(server, progress=progress)
    preflight(server, change, clock=clock)
    old = server.served()
    wanted = _wanted(server, change)
    undo.keep(server.folder, _NOTE, undo.Before({name: server.folder.read(name) for name in wanted}))
    try:
        for name, content in wanted.items():
            server.folder.write(name, content, mode=0o600 if name == server.files.key else None)
        begun = clock.monotonic()
        server.reload()
        _await(server, change.pair.fingerprint, within_s, clock)
        seconds = clock.monotonic() - begun
        progress.step(f"the new certificate is served after {seconds * 1000:.0f} ms")
        server.comes_back(change.ca)
    except BaseException as exc:
        progress.step("rolling back")
        _put_back(server, cause=exc)
        if not isinstance(exc, (DbsecError, psycopg.Error, OSError)):
            raise
        raise ApplyError(f"the rotation was rolled back: {reason(exc)}", hint="see the server's log") from exc
    undo.drop(server.folder, _NOTE)
    return Rotated(old, change.pair.fingerprint, seconds, server.sessions_before())


def recover(server: Server, *, progress: Progress = _SILENT) -> bool:
    """Put back what a rotation that was killed has left; True where there was something."""
    if undo.kept(server.folder, _NOTE) is None:
        return False
    progress.step("putting back what a rotation before this one had left half done")
    _put_back(server, cause=None)
    return True


def _wanted(server: Server, change: Change) -> dict[str, bytes]:
    """Return the files to write, the key first: a server that starts meanwhile finds the old certificate with it."""
    wanted = {server.files.key: change.pair.key, server.files.certificate: change.pair.certificate}
    if change.client_ca is not None:
        wanted[server.files.client_ca] = _bundle(server, change) or change.client_ca
    if change.crl is not None:
        wanted[server.files.crl] = change.crl
    return wanted


def _bundle(server: Server, change: Change) -> bytes | None:
    """Put the new CA before those that the server trusts now, each once."""
    held = server.folder.read(server.files.client_ca) if server.files.client_ca else None
    if change.client_ca is None:
        return held
    old = [] if change.drop_old_ca or not held else x509.load_pem_x509_certificates(held)
    return bundle([*x509.load_pem_x509_certificates(change.client_ca), *old])


def bundle(certificates: Sequence[x509.Certificate]) -> bytes:
    """Write certificates one after another in PEM, each once."""
    return b"".join(one.public_bytes(Encoding.PEM) for one in dict.fromkeys(certificates))


def _await(server: Server, fingerprint: str | None, within_s: float, clock: Clock) -> None:
    try:
        retry.wait_until(lambda: server.served() == fingerprint, within_s=within_s, what="the certificate", clock=clock)
    except GaveUp as exc:
        # What the server cannot load it refuses in its log alone, and goes on with the old pair.
        raise ApplyError(f"the certificate {str(fingerprint)[:16]} is not served within {within_s:g} s") from exc


def _put_back(server: Server, *, cause: BaseException | None) -> None:
    before = undo.kept(server.folder, _NOTE)
    if before is None:
        return
    for name, data in before.files.items():
        server.folder.restore(name, data)
    server.reload()
    held = before.files.get(server.files.certificate)
    if held is not None:
        try:
            _await(server, KeyPair(held, b"").fingerprint, 10.0, SYSTEM)
        except ApplyError as exc:
            told = "the old files are back, but are not served"
            raise ApplyError(told, hint="see the server's log") from (cause or exc)
    undo.drop(server.folder, _NOTE)


class PostgresServer:
    """PostgreSQL on this machine; ``admin`` is a superuser who comes over the network."""

    def __init__(self, connection: psycopg.Connection[Any], admin: Conninfo, folder: DataFolder) -> None:
        row = connection.execute(_NAMES).fetchone()
        assert row is not None
        self.folder, self.files = folder, Files(*map(str, row))
        self._connection, self._admin = connection, admin

    def served(self) -> str | None:
        """Fetch the certificate."""
        seen = probe.certificate(self._admin.address, self._admin.port, server_name=self._admin.host, ca=None)
        return seen.fingerprint if isinstance(seen, probe.Served) else None

    def reload(self) -> None:
        """Reload by SQL: the connection was open before, so no hba shuts it out."""
        reload(self._connection)

    def comes_back(self, ca: bytes) -> None:
        """Log in by verify-full."""
        with connect_trusting(self._admin, ca):
            pass

    def sessions_before(self) -> int:
        """Count by pg_stat_activity."""
        row = self._connection.execute(_OLD_SESSIONS).fetchone()
        return int(row[0]) if row else 0

    def check(self) -> None:
        """Look for lines of pg_hba.conf that cannot be read."""
        if errors := self._connection.execute(_HBA_ERRORS).fetchall():
            raise ConfigError("; ".join(f"pg_hba.conf line {line}: {error}" for line, error in errors))


def connect_trusting(admin: Conninfo, ca: bytes) -> psycopg.Connection[Any]:
    """Connect by verify-full, trusting a CA (PEM) alone. Errors: ``ConnectError``."""
    with tempfile.TemporaryDirectory(prefix="dbsec-") as private:
        file = Path(private) / "ca.crt"
        file.write_bytes(ca)
        return connect(admin.but(sslmode="verify-full", sslrootcert=file))
