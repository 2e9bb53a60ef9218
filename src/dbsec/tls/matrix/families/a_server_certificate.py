"""What a client must not trust: a stranger's certificate in its server's place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from dbsec.tls.drill import IMPERSONATION
from dbsec.tls.matrix.bench import Bench
from dbsec.tls.matrix.case import Attempt, Case, Need, Reason
from dbsec.tls.stranger import STRANGERS, Stranger, impersonate, refusal

_UNPROVEN = {"channel_binding": None, "require_auth": None}
NAMES = {
    "another host name": "wrong-host",
    "an unknown CA": "wrong-ca",
    "an expired certificate": "expired",
    "a certificate of tomorrow": "not-yet-valid",
    "a self-signed certificate": "self-signed",
}


def _attempt(stranger: Stranger, bench: Bench) -> Attempt:
    assert bench.authority is not None
    met = impersonate(bench.service, bench.authority, stranger)
    reasons = {Reason("verify code", str(met.verify_code))}
    if met.encounter.alert is not None:
        reasons.add(Reason("alert", met.encounter.alert.name.lower()))
    if met.control is not None:  # with a good certificate it is refused too: then the certificate is not the reason
        reasons.clear()
    return Attempt(not met.encounter.trusted, frozenset(reasons), met.to_json())


def _expected(stranger: Stranger, bench: Bench) -> tuple[Reason, ...]:
    return (Reason("verify code", str(stranger.code_for(bench.service.host))),)


def _good(bench: Bench) -> str | None:
    return refusal(bench.service)


@contextmanager
def _trusting(bench: Bench) -> Iterator[Bench]:
    """Encrypt, and look at no certificate: with a root file that is there, libpq would look all the same."""
    yield bench.but({**_UNPROVEN, "sslmode": "require", "sslrootcert": "/nonexistent"})


CASES: tuple[Case[Bench], ...] = tuple(
    Case(
        f"server-{NAMES[stranger.name]}",
        IMPERSONATION,
        f"a stranger serves {stranger.name}",
        partial(_attempt, stranger),
        _good,
        partial(_expected, stranger),
        frozenset({Need.AUTHORITY}),
        _trusting,
    )
    for stranger in STRANGERS.values()
)
