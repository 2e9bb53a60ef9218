"""Who must not come in where a client certificate is needed: without one, by a stranger's, too late, too early."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, partial
from pathlib import Path

from cryptography import x509

from dbsec.clock import SYSTEM
from dbsec.pg import Conninfo
from dbsec.tls import probe
from dbsec.tls.ca import Authority, KeyPair
from dbsec.tls.drill import CLIENT_CERTIFICATE, REFUSED_BY_HBA
from dbsec.tls.matrix.bench import Bench
from dbsec.tls.matrix.case import Attempt, Case, Need, Reason
from dbsec.tls.probe import Tls
from dbsec.tls.stranger import refusal

_NEEDS = frozenset({Need.AUTHORITY, Need.MTLS})
_BY_PASSWORD = "hostssl all all all scram-sha-256\n"  # noqa: S105 a line of pg_hba.conf
_ANY_NAME = "hostssl all all all scram-sha-256 clientcert=verify-ca\n"
_NO_CA = {"ssl_ca_file": "", "ssl_crl_file": "", "ssl_crl_dir": ""}
_ANOTHER_NAME = "dbsec_drill_mallory"
_NOT_ITS_NAME = "do not match"
_CRL_EXPIRED = "CRL has expired"
_LOG_TELLS_WHICH = 160000
_LAST_CRL = 1 << 60  # a number above any that the site has given: its own next one need not be greater

Maker = Callable[[Authority, str], KeyPair | None]


def _none(_: Authority, __: str) -> None:
    return None


@cache
def another_ca() -> Authority:
    """Make the CA that no server knows; one in a process."""
    return Authority.create("a CA that the server does not know")


def _of_another_ca(_: Authority, user: str) -> KeyPair:
    return another_ca().issue_client(user)


def _expired(authority: Authority, user: str) -> KeyPair:
    return authority.issue_client(user, start=SYSTEM.now() - timedelta(days=8), lifetime=timedelta(days=7))


def _of_tomorrow(authority: Authority, user: str) -> KeyPair:
    return authority.issue_client(user, start=SYSTEM.now() + timedelta(days=1))


def _of_another_role(authority: Authority, _: str) -> KeyPair:
    return authority.issue_client(_ANOTHER_NAME)


# What nobody comes in with, by what it is.
BAD: Mapping[str, Callable[[Authority, str], KeyPair]] = {
    "a certificate of another CA": _of_another_ca,
    "a certificate that has expired": _expired,
    "a certificate of tomorrow": _of_tomorrow,
    "a certificate of another role": _of_another_role,
}


def _login(bench: Bench) -> tuple[Conninfo, Authority]:
    assert bench.mtls is not None
    assert bench.authority is not None
    return bench.mtls.but(sslcert=None, sslkey=None, sslcertmode=None), bench.authority


def _good(bench: Bench) -> str | None:
    login, authority = _login(bench)
    return _logs_in(login, authority.issue_client(login.user))


def _logs_in(login: Conninfo, pair: KeyPair) -> str | None:
    with tempfile.TemporaryDirectory(prefix="dbsec-") as private:
        certificate, key = pair.save(Path(private), "client")
        return refusal(login.but(sslcert=certificate, sslkey=key))


def _begin(make: Maker, bench: Bench) -> Attempt:
    """Begin a login by a certificate, and read the first answer: that one has nothing to do with the password."""
    login, authority = _login(bench)
    return _first(login, make(authority, login.user))


def _first(login: Conninfo, pair: KeyPair | None) -> Attempt:
    tls = Tls(login.host, client=pair)
    answer = probe.login_reply(login.address, login.port, user=login.user, dbname=login.dbname, tls=tls)
    reasons = set()
    if answer.alert is not None:
        reasons.add(Reason("alert", answer.alert.name.lower()))
    if answer.sqlstate:
        reasons.add(Reason("sqlstate", answer.sqlstate))
    return Attempt(answer.request is None, frozenset(reasons), {"message": answer.message})


def by_another_name(tells: str, bench: Bench) -> Attempt:
    """Log in to the end: only there the server compares the name in the certificate with the role, and its log says."""
    login, authority = _login(bench)
    pair = _of_another_role(authority, login.user)
    with bench.logged() as log:
        said = _logs_in(login, pair)
        reasons = {Reason("log", tells)} if said is not None and log.says(tells) else set()
    return Attempt(said is not None, frozenset(reasons), {"libpq": said or "logged in"})


def _revoked(bench: Bench) -> Attempt:
    """Revoke a certificate in the list that the server reads; without such a list it is let in."""
    login, authority = _login(bench)
    pair = authority.issue_client(login.user)
    file = bench.setting("ssl_crl_file")
    if not file:
        return _first(login, pair)
    with revoked(bench, pair):
        return _first(login, pair)


@contextmanager
def revoked(bench: Bench, pair: KeyPair) -> Iterator[None]:
    """Put one serial more into the list in force, while the block runs."""
    assert bench.server is not None
    assert bench.authority is not None
    file = bench.setting("ssl_crl_file")
    held = bench.server.folder.read(file) or b""
    serials = [one.serial_number for one in x509.load_pem_x509_crl(held)] if held.strip() else []
    crl = bench.authority.crl([*serials, pair.x509.serial_number], number=_LAST_CRL)
    with bench.changed(files={file: crl}):
        yield


def _stale(bench: Bench) -> Attempt:
    """Let the list's nextUpdate pass: a server that goes on without a fresh list would miss a revocation."""
    login, authority = _login(bench)
    pair = authority.issue_client(login.user)
    file = bench.setting("ssl_crl_file")
    if not file:
        return _first(login, pair)
    start = SYSTEM.now() - timedelta(days=9)
    crl = authority.crl([], number=_LAST_CRL, start=start, lifetime=timedelta(days=7))
    with bench.changed(files={file: crl}), bench.logged() as log:
        attempt = _first(login, pair)
        tells = len(_of_stale_list(bench)) > 1
        logged = {Reason("log", _CRL_EXPIRED)} if attempt.refused and tells and log.says(_CRL_EXPIRED) else set()
    return Attempt(attempt.refused, attempt.reasons | logged, attempt.facts)


def _of_stale_list(bench: Bench) -> tuple[Reason, ...]:
    """Before PostgreSQL 16 the log does not say what has expired; the certificate is a fresh one."""
    alert = Reason("alert", "certificate_expired")
    tells = int(bench.setting("server_version_num")) >= _LOG_TELLS_WHICH
    return (alert, Reason("log", _CRL_EXPIRED)) if tells else (alert,)


@contextmanager
def _without_certificates(bench: Bench) -> Iterator[Bench]:
    """Ask for no certificate at all: while a CA is set, a bad one that is shown is refused whatever the hba says."""
    with bench.changed(hba=_BY_PASSWORD, settings=_NO_CA) as weak:
        yield weak


@contextmanager
def _any_name(bench: Bench) -> Iterator[Bench]:
    with bench.changed(hba=_ANY_NAME) as weak:
        yield weak


@contextmanager
def _without_crl(bench: Bench) -> Iterator[Bench]:
    with bench.changed(settings={"ssl_crl_file": ""}) as weak:
        yield weak


def _case(name: str, title: str, make: Maker, *expected: Reason) -> Case[Bench]:
    return Case(
        f"client-{name}",
        CLIENT_CERTIFICATE,
        title,
        partial(_begin, make),
        _good,
        lambda _: expected,
        _NEEDS,
        _without_certificates,
        frozenset({Need.ADMIN, Need.SERVER}),
    )


CASES: tuple[Case[Bench], ...] = (
    _case("no-certificate", "a login without its client certificate", _none, Reason("sqlstate", REFUSED_BY_HBA)),
    _case("wrong-ca", "a client certificate of another CA", _of_another_ca, Reason("alert", "unknown_ca")),
    _case("expired", "a client certificate that has expired", _expired, Reason("alert", "certificate_expired")),
    _case("not-yet-valid", "a client certificate of tomorrow", _of_tomorrow, Reason("alert", "bad_certificate")),
    Case(
        "client-another-name",
        CLIENT_CERTIFICATE,
        "a client certificate of another role",
        partial(by_another_name, _NOT_ITS_NAME),
        _good,
        lambda _: (Reason("log", _NOT_ITS_NAME),),
        _NEEDS | {Need.LOG},
        _any_name,
        frozenset({Need.ADMIN, Need.SERVER}),
    ),
    Case(
        "client-revoked",
        CLIENT_CERTIFICATE,
        "a client certificate that was revoked",
        _revoked,
        _good,
        lambda _: (Reason("alert", "certificate_revoked"),),
        _NEEDS | {Need.ADMIN, Need.SERVER},
        _without_crl,
    ),
    Case(
        "client-stale-crl",
        CLIENT_CERTIFICATE,
        "a revocation list past its nextUpdate",
        _stale,
        _good,
        _of_stale_list,
        _NEEDS | {Need.ADMIN, Need.SERVER, Need.LOG},
        _without_crl,
    ),
)
