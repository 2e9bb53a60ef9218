"""Bring a running PostgreSQL to a posture of encryption in transit: apply a plan, prove it, or put everything back."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from dbsec import retry
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ApplyError, DbsecError, GaveUp, reason
from dbsec.pg import Conninfo, connect, facts, settle
from dbsec.progress import Progress, Silent
from dbsec.tls import probe, undo
from dbsec.tls.data_folder import DataFolder
from dbsec.tls.posture import CERTIFICATE_FILE, CLIENT_CA_FILE, CRL_FILE, KEY_FILE
from dbsec.tls.server_plan import Plan, plan, served_fingerprint

_SILENT: Progress = Silent()
_HBA_ERRORS: LiteralString = "SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL"
_LOADED_AT: LiteralString = "SELECT pg_conf_load_time()"
_RELOAD_WITHIN_S = 10.0
_NOTE = "dbsec_tls_apply.json"


@dataclass(frozen=True, slots=True)
class Applied:
    """What has been done and proven; ``served_after_s``: from the reload to the new certificate on the wire."""

    plan: Plan
    served_after_s: float


def apply(
    admin: Conninfo,
    folder: DataFolder,
    planned: Plan,
    *,
    progress: Progress = _SILENT,
    clock: Clock = SYSTEM,
    within_s: float = 5.0,
) -> Applied:
    """Carry a plan out: TLS first, under the old hba; then the hba; each is proven before the next.

    ``admin`` must be able to come back over verify-full, so that nobody locks the door behind himself. Errors:
    ``ApplyError`` where anything does not hold within ``within_s``; files and settings are then as before, and proven
    to be in force, or the error names what is not. What a server thinks of new TLS settings shows in the certificate:
    where that one stays the same, a value that the reload refuses (``ssl_ciphers`` of nonsense) shows in its log alone.
    """
    with connect(admin) as connection:
        if plan(connection, folder, planned.posture) != planned:
            raise ApplyError("the server is not as it was when the plan was made", hint="plan again, and read it")
        change = _Change(connection, admin, folder, planned, clock)
        before = change.files()
        undo.keep(folder, _NOTE, undo.Before(before, {one.name: one.own for one in planned.settings}))
        try:
            progress.step("certificate, key and settings")
            seconds = change.switch_tls(within_s)
            progress.step(f"the new certificate is served after {seconds * 1000:.0f} ms; now pg_hba.conf")
            change.switch_hba()
        except BaseException as exc:
            progress.step("rolling back")
            change.put_back(before, cause=exc)
            if not isinstance(exc, (DbsecError, psycopg.Error, OSError)):
                raise
            raise ApplyError(f"encryption in transit was rolled back: {exc}", hint="see the server's log") from exc
        undo.drop(folder, _NOTE)
        return Applied(planned, seconds)


def recover(admin: Conninfo, folder: DataFolder, *, progress: Progress = _SILENT) -> bool:
    """Put back what an ``apply`` that was killed has left; True where there was something.

    ``admin`` is who can come in now, by the old lines or the new. Errors: ``UsageError``, ``ConnectError``.
    """
    before = undo.kept(folder, _NOTE)
    if before is None:
        return False
    progress.step("putting back what a run before this one had left half done")
    with connect(admin) as connection:
        for name, data in before.files.items():
            folder.restore(name, data)
        for setting, own in before.settings.items():
            alter_system(connection, setting, own)
        reload(connection)
    undo.drop(folder, _NOTE)
    return True


@dataclass(frozen=True, slots=True)
class _Change:
    """One change in the making. ``connection`` was open before it, so no hba can shut it out of the way back."""

    connection: psycopg.Connection[Any]
    admin: Conninfo
    folder: DataFolder
    planned: Plan
    clock: Clock

    def files(self) -> Mapping[str, bytes | None]:
        names = (KEY_FILE, CERTIFICATE_FILE, CLIENT_CA_FILE, CRL_FILE, self.planned.hba_file)
        return {name: self.folder.read(name) for name in names}

    def switch_tls(self, within_s: float) -> float:
        posture = self.planned.posture
        self.folder.write(KEY_FILE, posture.certificate.key, mode=0o600)
        self.folder.write(CERTIFICATE_FILE, posture.certificate.certificate)
        self.folder.write(CLIENT_CA_FILE, posture.client_ca)
        if posture.crl is not None:
            self.folder.write(CRL_FILE, posture.crl)
        for change in self.planned.settings:
            alter_system(self.connection, change.name, change.new)
        begun = self.clock.monotonic()
        self._reload()
        self._await_certificate(within_s)
        return self.clock.monotonic() - begun

    def switch_hba(self) -> None:
        self.folder.write(self.planned.hba_file, self.planned.hba_new.encode("utf-8", "surrogateescape"))
        # A file with an error would be ignored by the reload, and would stop the next start.
        if errors := self.connection.execute(_HBA_ERRORS).fetchall():
            raise ApplyError("; ".join(f"pg_hba.conf line {line}: {error}" for line, error in errors))
        self._reload()
        with tempfile.TemporaryDirectory(prefix="dbsec-") as private:
            ca = Path(private) / "ca.crt"
            ca.write_bytes(self.planned.posture.server_ca)
            with connect(self.admin.but(sslmode="verify-full", sslrootcert=ca)) as returned:
                _check_settings(returned, self.planned.posture.all_settings)

    def put_back(self, before: Mapping[str, bytes | None], *, cause: BaseException) -> None:
        """Restore each file and setting, whatever becomes of the others. Errors: ``ApplyError`` naming what is not."""
        left: list[str] = []
        settle(self.connection)
        for name, data in before.items():
            with _noted(left, f"'{name}' is not back"):
                self.folder.restore(name, data)
        for change in self.planned.settings:
            with _noted(left, f"setting '{change.name}' is not back"):
                alter_system(self.connection, change.name, change.own)
        complete = not left
        with _noted(left, "the state before is not proven to be in force"):
            self._reload()
            if complete:
                self._await_old()
        if not left:
            undo.drop(self.folder, _NOTE)
        if left:
            raise ApplyError(
                f"it did not hold ({reason(cause)}), and not all is as before: {'; '.join(left)}",
                hint=f"put back what is named ('{self.folder.path}', ALTER SYSTEM), reload, and read the server's log",
            ) from cause

    def _await_old(self) -> None:
        retry.wait_until(
            lambda: served_fingerprint(self.connection) == self.planned.certificate_old,
            within_s=_RELOAD_WITHIN_S,
            what="the old certificate",
            clock=self.clock,
        )
        connect(self.admin).close()

    def _await_certificate(self, within_s: float) -> None:
        posture, admin = self.planned.posture, self.admin
        last: list[probe.Served | probe.TlsRefusal] = []

        def is_served() -> bool:
            judged = probe.certificate(admin.address, admin.port, server_name=admin.host, ca=posture.server_ca)
            last[:] = [judged]
            return isinstance(judged, probe.Served) and judged.fingerprint == posture.certificate.fingerprint

        try:
            retry.wait_until(is_served, within_s=within_s, what="the new certificate", clock=self.clock)
        except GaveUp as exc:
            # What the server cannot load it refuses in its log alone, and goes on with the old pair.
            seen = last[0].text if isinstance(last[0], probe.TlsRefusal) else "another certificate is served"
            raise ApplyError(f"the new certificate is not served within {within_s:g} s: {seen}") from exc

    def _reload(self) -> None:
        reload(self.connection, clock=self.clock)


def alter_system(connection: psycopg.Connection[Any], name: str, value: str | None) -> None:
    """Set one setting in postgresql.auto.conf, or take it out where the value is None; it counts after a reload."""
    if value is None:
        connection.execute(sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name)))
        return
    statement = sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
    connection.execute(statement)


def reload(connection: psycopg.Connection[Any], *, clock: Clock = SYSTEM) -> None:
    """Reload, and wait until it has counted: the postmaster reads its files before it takes the next client.

    Errors: ``GaveUp``.
    """
    before = connection.execute(_LOADED_AT).fetchone()
    connection.execute("SELECT pg_reload_conf()")
    retry.wait_until(
        lambda: connection.execute(_LOADED_AT).fetchone() != before,
        within_s=_RELOAD_WITHIN_S,
        what="the reload",
        clock=clock,
    )


@contextmanager
def _noted(left: list[str], what: str) -> Iterator[None]:
    """Go on after a failure, and add it to ``left``."""
    try:
        yield
    except (DbsecError, psycopg.Error, OSError) as exc:
        left.append(f"{what} ({reason(exc)})")


def _check_settings(connection: psycopg.Connection[Any], wanted: Mapping[str, str]) -> None:
    found = facts.settings(connection, list(wanted))
    wrong = [f"{n} is '{s.value}'" for n, s in found.items() if s.value != wanted[n] or s.pending_restart]
    if wrong:
        raise ApplyError(f"not in force: {', '.join(wrong)}", hint="look for -c options and ALTER ROLE ... SET")
