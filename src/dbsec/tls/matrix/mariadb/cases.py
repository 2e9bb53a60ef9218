"""What MariaDB must not let in, and what its clients must not believe.

Some controls hold from start to stop (tls_version, ssl_ca, ssl_crl): nothing takes them away from a server that runs,
so those cases have no mutation here; a test starts a server without them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial

from dbsec.secret import Secret
from dbsec.tls.ca import Authority, KeyPair
from dbsec.tls.drill import CLIENT_CERTIFICATE, IMPERSONATION, PLAINTEXT
from dbsec.tls.matrix.case import Attempt, Case, Need, Reason
from dbsec.tls.matrix.families import d_client_certificate as certificates
from dbsec.tls.matrix.families.a_server_certificate import NAMES
from dbsec.tls.matrix.families.c_gate import OLD_VERSIONS, PROTOCOL_VERSION, handshake_by
from dbsec.tls.matrix.mariadb.bench import MariaBench
from dbsec.tls.matrix.mariadb.impostor import Impostor
from dbsec.tls.matrix.mariadb.login import Login, Refusal, Trust, handshake, refusal
from dbsec.tls.prober import Protocol
from dbsec.tls.prober.greeting import Target
from dbsec.tls.prober.suites import Version
from dbsec.tls.stranger import STRANGERS, Stranger

_ACCESS_DENIED = Reason("error", "1045")
_NEEDS_TLS = Reason("error", "3159")
# MariaDB says of a wrong password and of the want of TLS the same; by TLS the same login goes through.
_NO_CLEAR = Reason("answer", "no login in clear (error 1045 or 3159)")
_CLIENT_NEEDS_TLS = Reason("error", "2026")
_NEEDS = frozenset({Need.AUTHORITY, Need.MTLS})
Bench = MariaBench
Weaken = Callable[[Bench], AbstractContextManager[Bench]]


def _good(bench: Bench) -> str | None:
    return _text(refusal(bench.service))


def _good_by_certificate(bench: Bench) -> str | None:
    login, authority = _login(bench)
    return _text(refusal(login.but(pair=authority.issue_client(login.user))))


def _text(said: Refusal | None) -> str | None:
    return said.text if said else None


def _login(bench: Bench) -> tuple[Login, Authority]:
    assert bench.mtls is not None
    assert bench.authority is not None
    return bench.mtls, bench.authority


def _attempt(said: Refusal | None) -> Attempt:
    return Attempt(said is not None, said.reasons if said else frozenset(), {"pymysql": _text(said) or "logged in"})


def _met(client: Login, certificate: KeyPair | None) -> Attempt:
    """Route a client to a stranger, with a password that was made up; refused is who does not go on to log in."""
    made_up = Secret(f"made-up-{secrets.token_hex(4)}")
    with Impostor(certificate) as impostor:
        said = refusal(client.but(password=made_up), address="127.0.0.1", port=impostor.port)
        encounter = impostor.met()
    facts = {"pymysql": _text(said) or "logged in"}
    if encounter.captured == made_up:
        facts["captured_password"] = made_up.reveal()
    return Attempt(not encounter.trusted, said.reasons if said else frozenset(), facts)


def _impersonated(stranger: Stranger, bench: Bench) -> Attempt:
    assert bench.authority is not None
    host = bench.service.host
    attempt = _met(bench.service, stranger.certificate(bench.authority, host))
    # On the same way, with a good certificate, the client must go on: else the certificate is not the reason.
    control = _met(bench.service, bench.authority.issue_server([host]))
    return Attempt(attempt.refused, frozenset() if control.refused else attempt.reasons, attempt.facts)


def _denied(bench: Bench) -> Attempt:
    return _met(bench.service, None)


def _in_clear(bench: Bench) -> Attempt:
    attempt = _attempt(refusal(bench.service.but(trust=Trust.CLEAR)))
    told = {_NO_CLEAR} if attempt.reasons & {_ACCESS_DENIED, _NEEDS_TLS} else set()
    return Attempt(attempt.refused, attempt.reasons | told, attempt.facts)


def _old_version(version: Version, bench: Bench) -> Attempt:
    return handshake_by(version, Target(bench.service.host, bench.service.port, Protocol.MYSQL))


def _shown(make: Callable[[Authority, str], KeyPair], bench: Bench) -> Attempt:
    login, authority = _login(bench)
    return _handshake(login.but(pair=make(authority, login.user)))


def _revoked(bench: Bench) -> Attempt:
    return _handshake(_login(bench)[0].but(pair=bench.revoked))


def _handshake(login: Login) -> Attempt:
    alert = handshake(login)
    reasons = frozenset({Reason("alert", alert.name.lower())}) if alert is not None else frozenset[Reason]()
    return Attempt(alert is not None, reasons)


def _logs_in(make: Callable[[Authority, str], KeyPair | None], bench: Bench) -> Attempt:
    login, authority = _login(bench)
    return _attempt(refusal(login.but(pair=make(authority, login.user))))


def _trusting(trust: Trust) -> Weaken:
    @contextmanager
    def weaken(bench: Bench) -> Iterator[Bench]:
        yield replace(bench, service=bench.service.but(trust=trust))

    return weaken


@contextmanager
def _open(bench: Bench) -> Iterator[Bench]:
    with bench.in_clear() as login:
        yield replace(bench, service=login)


@contextmanager
def _by_password(bench: Bench) -> Iterator[Bench]:
    """Put an account in the login's place of which nothing but TLS is asked."""
    with bench.account(_login(bench)[0], demand="SSL") as login:
        yield replace(bench, mtls=login)


def _is(*reasons: Reason) -> Callable[[Bench], tuple[Reason, ...]]:
    return lambda _: reasons


def _code(stranger: Stranger, bench: Bench) -> tuple[Reason, ...]:
    return (Reason("verify code", str(stranger.code_for(bench.service.host))),)


_IN_TLS = {
    "wrong-ca": ("a certificate of another CA", "unknown_ca"),
    "expired": ("a certificate that has expired", "certificate_expired"),
    "not-yet-valid": ("a certificate of tomorrow", "bad_certificate"),
}
_SERVER = tuple(
    Case(
        f"server-{NAMES[stranger.name]}",
        IMPERSONATION,
        f"a stranger serves {stranger.name}",
        partial(_impersonated, stranger),
        _good,
        partial(_code, stranger),
        frozenset({Need.AUTHORITY}),
        _trusting(Trust.ENCRYPT),
    )
    for stranger in STRANGERS.values()
)
_WAY = (
    Case(
        "mitm-denies-tls",
        PLAINTEXT,
        "a man in the middle offers no TLS and asks for the password",
        _denied,
        _good,
        _is(_CLIENT_NEEDS_TLS),
        weaken=_trusting(Trust.PREFER),
    ),
    Case(
        "plaintext",
        PLAINTEXT,
        "a login in clear",
        _in_clear,
        _good,
        _is(_NO_CLEAR),
        weaken=_open,
        weaken_needs=frozenset({Need.ADMIN}),
    ),
    *(
        Case(
            f"version-{version.label}",
            PLAINTEXT,
            f"a handshake by {version.label}",
            partial(_old_version, version),
            _good,
            _is(PROTOCOL_VERSION),
        )
        for version in OLD_VERSIONS
    ),
)
_CLIENT = (
    Case(
        "client-no-certificate",
        CLIENT_CERTIFICATE,
        "a login without its client certificate",
        partial(_logs_in, lambda _, __: None),
        _good_by_certificate,
        _is(_ACCESS_DENIED),
        _NEEDS,
        _by_password,
        frozenset({Need.ADMIN}),
    ),
    Case(
        "client-another-name",
        CLIENT_CERTIFICATE,
        "a client certificate of another role",
        partial(_logs_in, certificates.BAD["a certificate of another role"]),
        _good_by_certificate,
        _is(_ACCESS_DENIED),
        _NEEDS,
        _by_password,
        frozenset({Need.ADMIN}),
    ),
    *(
        Case(
            f"client-{name}",
            CLIENT_CERTIFICATE,
            f"a client shows {what}",
            partial(_shown, certificates.BAD[what]),
            _good_by_certificate,
            _is(Reason("alert", alert)),
            _NEEDS,
        )
        for name, (what, alert) in _IN_TLS.items()
    ),
    Case(
        "client-revoked",
        CLIENT_CERTIFICATE,
        "a client certificate that was revoked",
        _revoked,
        _good_by_certificate,
        _is(Reason("alert", "certificate_revoked")),
        _NEEDS | {Need.REVOKED},
    ),
)
CASES: tuple[Case[MariaBench], ...] = (*_SERVER, *_WAY, *_CLIENT)
