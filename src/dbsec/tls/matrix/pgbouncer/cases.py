"""What PgBouncer must not let in, and what its clients must not believe. Its own controls are those of pgbouncer.ini.

What it cannot do is here too: a certificate of another role is let in under SCRAM, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial

from dbsec.evidence import Control
from dbsec.tls.drill import CLIENT_CERTIFICATE, IMPERSONATION
from dbsec.tls.matrix.bench import Bench
from dbsec.tls.matrix.case import Attempt, Case, Need, Reason
from dbsec.tls.matrix.families import a_server_certificate, b_man_in_the_middle, c_gate, d_client_certificate

_ALL_SUITES = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"
_NOT_ITS_NAME = "certificate authentication failed"
_WEAKER = {
    "plaintext": {"client_tls_sslmode": "allow"},
    "version-TLSv1": {"client_tls_protocols": "all", "client_tls_ciphers": _ALL_SUITES},
    "version-TLSv1.1": {"client_tls_protocols": "all", "client_tls_ciphers": _ALL_SUITES},
    "client-no-certificate": {"client_tls_sslmode": "require"},
    "client-another-name": {"auth_type": "scram-sha-256"},  # where it is cert, and the name counts
}
# No setting of its own lets these in: a certificate that is shown is checked, asked for or not.
_NEVER_IN = ("client-expired", "client-not-yet-valid")
# It answers by a text of its own, and asks for the certificate within TLS, where PostgreSQL asks pg_hba.conf.
_ANSWERS = {
    "plaintext": Reason("sqlstate", "08P01"),
    "client-no-certificate": Reason("alert", "certificate_required"),
    "client-another-name": Reason("log", _NOT_ITS_NAME),
}


def _weaker(settings: dict[str, str] | None) -> Callable[[Bench], AbstractContextManager[Bench]] | None:
    @contextmanager
    def weaken(bench: Bench) -> Iterator[Bench]:
        assert bench.pooler is not None
        with bench.pooler.changed(settings or {}):
            yield bench

    return weaken if settings else None


@contextmanager
def _trusting_another_ca(bench: Bench) -> Iterator[Bench]:
    assert bench.pooler is not None
    with bench.pooler.changed({}, ca=d_client_certificate.another_ca().certificate):
        yield bench


def _here(case: Case[Bench]) -> Case[Bench]:
    """Expect PgBouncer's answer, and take PgBouncer's control away."""
    answer = _ANSWERS.get(case.name)
    case = replace(case, expected=case.expected if answer is None else (lambda _: (answer,)))
    if case.name == "client-another-name":
        case = replace(case, attempt=partial(d_client_certificate.by_another_name, _NOT_ITS_NAME))
    if case.name in _NEVER_IN:
        return replace(case, weaken=None)
    weaken = _trusting_another_ca if case.name == "client-wrong-ca" else _weaker(_WEAKER.get(case.name))
    return replace(case, weaken=weaken, weaken_needs=frozenset({Need.POOLER})) if weaken else case


def _cannot(name: str, control: Control, title: str, need: Need) -> Case[Bench]:
    """Say by name what PgBouncer has no means for: it is skipped, and says why."""
    return Case(name, control, title, lambda _: Attempt(False), lambda _: None, lambda _: (), frozenset({need}))


_OF_THE_MATRIX = (
    *a_server_certificate.CASES,
    *(case for case in b_man_in_the_middle.CASES if case.name != "mitm-strips-binding"),
    *(case for case in c_gate.CASES if case.name != "md5-role"),
    *(case for case in d_client_certificate.CASES if case.name not in ("client-revoked", "client-stale-crl")),
)
CASES: tuple[Case[Bench], ...] = (
    *map(_here, _OF_THE_MATRIX),
    _cannot(
        "mitm-strips-binding",
        IMPERSONATION,
        "a man in the middle with a good certificate takes channel binding out",
        Need.BINDING,
    ),
    _cannot("client-revoked", CLIENT_CERTIFICATE, "a client certificate that was revoked", Need.LIST),
)
