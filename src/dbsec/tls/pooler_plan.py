"""Bring a PgBouncer to TLS on both sides: a plan as a diff of its file, applied, proven on the wire, or put back."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from dbsec import retry
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ApplyError, DbsecError, GaveUp, reason
from dbsec.pg import Conninfo
from dbsec.progress import Progress, Silent
from dbsec.tls import prober, undo
from dbsec.tls.ca import CLIENT, SERVER, KeyPair
from dbsec.tls.data_folder import DataFolder
from dbsec.tls.issuers import checks
from dbsec.tls.pooler import PgBouncerServer
from dbsec.tls.prober import Protocol
from dbsec.tls.prober.greeting import Plaintext, Target, in_clear

_SILENT: Progress = Silent()
_NOTE = "dbsec_tls_pooler.json"
_SECTION = re.compile(r"\s*\[([^\]]+)\]")
_PASSWORD = re.compile(r"(password\s*=\s*)(?:'[^']*'|\S+)")
SERVED, CLIENTS, SERVERS, GATEWAY = "dbsec-client-tls", "dbsec-client-ca.crt", "dbsec-server-ca.crt", "dbsec-server-tls"


_AUTH_QUERY = "SELECT username, password FROM dbsec_pooler.look_up($1)"
# No superuser, nobody who may not log in, nobody past his time; whoever calls it learns a verifier, so one role may.
_LOOK_UP: tuple[LiteralString, ...] = (
    "CREATE SCHEMA IF NOT EXISTS dbsec_pooler",
    """
CREATE OR REPLACE FUNCTION dbsec_pooler.look_up(wanted text) RETURNS TABLE (username text, password text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
    SELECT rolname::text, rolpassword::text FROM pg_catalog.pg_authid
     WHERE rolname = wanted AND rolcanlogin AND NOT rolsuper AND NOT rolreplication
       AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now())
$$""",
    "REVOKE ALL ON FUNCTION dbsec_pooler.look_up(text) FROM PUBLIC",
)


def install_auth_query(connection: psycopg.Connection[Any], role: str) -> None:
    """Make the function that PgBouncer looks SCRAM verifiers up by, in this database, for one role alone.

    Needs a superuser: it reads pg_authid. Source: PgBouncer, "auth_query".
    """
    with connection.transaction():
        for statement in _LOOK_UP:
            connection.execute(statement)
        name = sql.Identifier(role)
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA dbsec_pooler TO {}").format(name))
        connection.execute(sql.SQL("GRANT EXECUTE ON FUNCTION dbsec_pooler.look_up(text) TO {}").format(name))


@dataclass(frozen=True, slots=True)
class PoolerPosture:
    """``certificate`` is served to clients, who check it by ``ca`` (PEM); ``client_ca`` signs their certificates, which
    are asked for where it is given; ``server_ca`` is what PostgreSQL is checked by, ``gateway`` is shown to it. With
    ``auth_user``, a role that is in auth_file, passwords are looked up by ``install_auth_query``'s function.
    """

    certificate: KeyPair
    ca: bytes
    server_ca: bytes
    client_ca: bytes | None = None
    gateway: KeyPair | None = None
    ciphers: str = "ECDHE+AESGCM:ECDHE+CHACHA20"
    auth_user: str = ""

    def files(self) -> dict[str, bytes]:
        """Return the files by name, keys first."""
        found = {f"{SERVED}.key": self.certificate.key, f"{SERVED}.crt": self.certificate.certificate}
        if self.gateway is not None:
            found |= {f"{GATEWAY}.key": self.gateway.key, f"{GATEWAY}.crt": self.gateway.certificate}
        if self.client_ca is not None:
            found[CLIENTS] = self.client_ca
        return {**found, SERVERS: self.server_ca}

    def settings(self, folder: DataFolder) -> dict[str, str]:
        """Return the lines of [pgbouncer], files by their whole path."""
        path = folder.path
        wanted = {
            "auth_type": "scram-sha-256",
            "client_tls_sslmode": "verify-full" if self.client_ca is not None else "require",
            "client_tls_key_file": f"{path / SERVED}.key",
            "client_tls_cert_file": f"{path / SERVED}.crt",
            "client_tls_protocols": "secure",
            "client_tls_ciphers": self.ciphers,
            "server_tls_sslmode": "verify-full",
            "server_tls_ca_file": f"{path / SERVERS}",
            "server_tls_protocols": "secure",
        }
        if self.auth_user:
            wanted |= {"auth_user": self.auth_user, "auth_query": _AUTH_QUERY}
        if self.client_ca is not None:
            wanted["client_tls_ca_file"] = f"{path / CLIENTS}"
        if self.gateway is not None:
            wanted |= {
                "server_tls_key_file": f"{path / GATEWAY}.key",
                "server_tls_cert_file": f"{path / GATEWAY}.crt",
            }
        return wanted


@dataclass(frozen=True, slots=True)
class PoolerPlan:
    """What ``apply`` will do; ``old`` and ``new`` are the whole file."""

    posture: PoolerPosture
    name: str
    old: str = field(repr=False)
    new: str = field(repr=False)
    certificate_changes: bool

    @property
    def empty(self) -> bool:
        return self.old == self.new and not self.certificate_changes

    def render(self) -> str:
        """Write it for a person: the file as a unified diff, without passwords."""
        if self.empty:
            return "nothing to change\n"
        head = [f"certificate  -> {self.posture.certificate.fingerprint[:16]}"] if self.certificate_changes else []
        names = f"{self.name} (now)", "(planned)"
        lines = difflib.unified_diff(self.old.splitlines(), self.new.splitlines(), *names, lineterm="")
        return "\n".join([*head, *(_PASSWORD.sub(r"\1<redacted>", line) for line in lines)]) + "\n"


def plan(folder: DataFolder, name: str, posture: PoolerPosture, *, clock: Clock = SYSTEM) -> PoolerPlan:
    """Compare pgbouncer.ini (``name`` in ``folder``) with a posture; changes nothing.

    Errors: ``ConfigError`` for a certificate that would not do.
    """
    checks.check(posture.certificate, posture.ca, use=SERVER, now=clock.now())
    if posture.gateway is not None:
        # by whatever CA PostgreSQL trusts: that one is not known here
        checks.check_pair(posture.gateway, use=CLIENT, now=clock.now())
    old = (folder.read(name) or b"").decode("utf-8", "surrogateescape")
    changes = any(folder.read(one) != content for one, content in posture.files().items())
    return PoolerPlan(posture, name, old, edited(old, posture.settings(folder)), changes)


def edited(text: str, wanted: Mapping[str, str]) -> str:
    """Set lines of [pgbouncer]; every other line stays as it is, comments too."""
    left, lines, section, end = dict(wanted), [], "", 0
    for line in text.splitlines():
        if found := _SECTION.match(line):
            section = found[1].strip()
        name = line.partition("=")[0].strip()
        if section == "pgbouncer" and name in wanted and not line.lstrip().startswith((";", "#")):
            if name not in left:
                continue  # a second line would win over ours
            line = f"{name} = {left.pop(name)}"
        lines.append(line)
        if section == "pgbouncer" and line.strip():
            end = len(lines)
    if left and not end:
        lines += ["[pgbouncer]"]
        end = len(lines)
    lines[end:end] = [f"{name} = {value}" for name, value in left.items()]
    return "\n".join(lines) + "\n"


def apply(
    console: Conninfo,
    planned: PoolerPlan,
    folder: DataFolder,
    *,
    through: Conninfo,
    progress: Progress = _SILENT,
    clock: Clock = SYSTEM,
    within_s: float = 5.0,
) -> None:
    """Write, RELOAD, and prove: the certificate is served, ``through`` logs in by verify-full, clear is refused.

    ``console`` is a login of the console that comes in before and after. Errors: ``ApplyError``; file and keys are then
    as before, and reloaded.
    """
    recover(console, folder, planned.name)
    server = PgBouncerServer(console, folder.path / planned.name, dbname=through.dbname)
    wanted = {**planned.posture.files(), planned.name: planned.new.encode("utf-8", "surrogateescape")}
    undo.keep(folder, _NOTE, undo.Before({name: folder.read(name) for name in wanted}))
    try:
        for name, content in wanted.items():
            folder.write(name, content)
        server.reload()
        _prove(planned.posture, through, within_s, clock)
        progress.step("the certificate is served, a login came through it, and one in clear is refused")
    except BaseException as exc:
        progress.step("rolling back")
        _put_back(console, folder, planned.name)
        if not isinstance(exc, (DbsecError, OSError)):
            raise
        raise ApplyError(f"PgBouncer's TLS was rolled back: {reason(exc)}", hint="see its log") from exc
    undo.drop(folder, _NOTE)


def recover(console: Conninfo, folder: DataFolder, name: str) -> bool:
    """Put back what an ``apply`` that was killed has left; True where there was something."""
    if undo.kept(folder, _NOTE) is None:
        return False
    _put_back(console, folder, name)
    return True


def _put_back(console: Conninfo, folder: DataFolder, name: str) -> None:
    before = undo.kept(folder, _NOTE)
    if before is None:
        return
    for one, data in before.files.items():
        folder.restore(one, data)
    # the console may answer by the new TLS still: whoever reloads checks nothing of it
    loose = {"sslmode": "prefer", "sslrootcert": None, "require_auth": None}
    PgBouncerServer(console.but(password=None, **loose), folder.path / name, dbname="").reload()
    undo.drop(folder, _NOTE)


def _prove(posture: PoolerPosture, through: Conninfo, within_s: float, clock: Clock) -> None:
    from dbsec.tls.rotation import connect_trusting

    target = Target(through.address, through.port, Protocol.POSTGRES, through.user, through.dbname)
    wanted = posture.certificate.fingerprint
    try:
        retry.wait_until(
            lambda: prober.served(target) == wanted, within_s=within_s, what="the certificate", clock=clock
        )
    except GaveUp as exc:
        raise ApplyError(f"the certificate {wanted[:16]} is not served within {within_s:g} s") from exc
    with connect_trusting(through, posture.ca):
        pass
    found, words = in_clear(target)
    if found is not Plaintext.REFUSED:
        raise ApplyError(f"a login in clear is {found}: {words}")
