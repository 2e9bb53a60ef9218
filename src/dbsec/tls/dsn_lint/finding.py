"""Findings on DSNs: what each would accept, and the DSN that refuses it."""

from __future__ import annotations

from collections.abc import Mapping

from dbsec.findings import Finding, Severity
from dbsec.tls.check import Check
from dbsec.tls.dsn_lint.dsn import Driver, Dsn, Spelling
from dbsec.tls.dsn_lint.verdict import Bad, accepted

_ROOT = "/path/to/ca.crt"


CHECKS = {
    check.name: check
    for check in (
        Check("TLS301", "allow-server-in-clear", "A server without TLS is accepted", Severity.ERROR, ("CWE-319",)),
        Check("TLS302", "allow-any-certificate", "Any certificate is accepted", Severity.ERROR, ("CWE-295",)),
        Check("TLS303", "allow-another-host", "Another host's certificate is accepted", Severity.ERROR, ("CWE-297",)),
        Check(
            "TLS304", "allow-password-in-clear", "The password is given to a server that asks for it in clear",
            Severity.ERROR, ("CWE-522",),
        ),
        Check("TLS305", "allow-no-root", "Who is trusted depends on the machine", Severity.WARNING, ("CWE-295",)),
    )
}  # fmt: skip


def judge(dsn: Dsn, *, pooler: bool = False) -> list[Finding]:
    """Name what it accepts, the worst alone of what contains the rest. ``pooler``: it dials one, whatever its port."""
    bad = accepted(dsn)
    found = []
    if Bad.NO_TLS in bad:
        found.append("allow-server-in-clear")
    elif Bad.UNKNOWN_CA in bad:
        found.append("allow-any-certificate")
    elif Bad.WRONG_HOST in bad:
        found.append("allow-another-host")
    if Bad.ASKS_PASSWORD in bad and _could_refuse(dsn):
        found.append("allow-password-in-clear")
    if not found and not dsn.local and dsn.driver is Driver.LIBPQ and "sslrootcert" not in dsn.params:
        found.append("allow-no-root")
    better = dsn.written(fixed(dsn, pooler=pooler))
    if dsn.driver is Driver.ASYNCPG and "sslrootcert" not in dsn.params:
        better += f"  with PGSSLROOTCERT={_ROOT}"
    would = f"'{dsn.written()}' ({dsn.driver}) accepts: {', '.join(sorted(bad)) or 'none of them'}"
    return [_finding(name, dsn, would, better) for name in found]


def _could_refuse(dsn: Dsn) -> bool:
    """Whether the driver has a parameter for it at all."""
    return dsn.driver in (Driver.LIBPQ, Driver.PGJDBC)


def fixed(dsn: Dsn, *, pooler: bool = False) -> Mapping[str, str]:
    """Return the parameters with which it accepts none of them, as far as its driver can."""
    params = dict(dsn.params)
    through_pooler = pooler or dsn.pooler
    match dsn.driver:
        case Driver.LIBPQ:
            params |= {"sslmode": "verify-full", "require_auth": "scram-sha-256"}
            params.setdefault("sslrootcert", _ROOT)
            if through_pooler:
                params.pop("channel_binding", None)
            else:
                params["channel_binding"] = "require"
        case Driver.ASYNCPG:
            # neither SQLAlchemy's URL nor a call takes a root file: that one is PGSSLROOTCERT's
            params.pop("sslmode", None)
            params["ssl"] = "verify-full"
        case Driver.PYMYSQL:
            params = {n: v for n, v in params.items() if n not in ("ssl_disabled", "ssl_check_hostname")}
            params.setdefault("ssl_ca", _ROOT)
            if dsn.spelling is not Spelling.URL:
                params["ssl_verify_identity"] = "True"
        case Driver.PGJDBC:
            params.pop("ssl", None)
            params |= {"sslmode": "verify-full", "requireAuth": "scram-sha-256"}
            params.setdefault("sslrootcert", _ROOT)
        case Driver.CONNECTOR_J:
            params |= {"sslMode": "VERIFY_IDENTITY"}
            params.setdefault("trustCertificateKeyStoreUrl", "file:/path/to/ca.p12")
        case Driver.MARIADB_J:
            params |= {"sslMode": "verify-full"}
            params.setdefault("serverSslCert", _ROOT)
    return params


def _finding(name: str, dsn: Dsn, message: str, better: str) -> Finding:
    check = CHECKS[name]
    where = dict(dsn.where)
    target = dsn.host or "the default host"
    return Finding(check.code, name, check.severity, target, message, better, check.refs, where)
