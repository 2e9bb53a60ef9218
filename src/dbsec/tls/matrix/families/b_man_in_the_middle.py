"""A man in the middle: he denies TLS, asks for the password, or takes channel binding out of the talk."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from dbsec.pg import Conninfo
from dbsec.secret import Secret
from dbsec.tls.ca import KeyPair
from dbsec.tls.drill import IMPERSONATION, PASSWORD, PLAINTEXT
from dbsec.tls.impostor import Encounter, Impostor
from dbsec.tls.matrix.bench import Bench
from dbsec.tls.matrix.case import Attempt, Case, Need, Reason
from dbsec.tls.stranger import refusal

_NO_TLS = Reason("answer", "no TLS, and the client hangs up")
_NO_PASSWORD = Reason("answer", "a question for the password, and the client hangs up")
_NO_BINDING = Reason("answer", "no channel binding, and the login ends")


def _denied(bench: Bench) -> Attempt:
    """Answer N to SSLRequest and ask for the password: one that was made up, so that it can be shown."""
    made_up = Secret(f"made-up-{secrets.token_hex(4)}")
    encounter, said = _meet(bench.service.but(password=made_up), None)
    facts = {"libpq": said or "logged in"}
    if encounter.captured == made_up:
        facts["captured_password"] = made_up.reveal()
    return Attempt(not encounter.trusted, frozenset() if encounter.trusted else frozenset({_NO_TLS}), facts)


def _asked(bench: Bench) -> Attempt:
    """Serve a good certificate and ask for the password in clear."""
    assert bench.authority is not None
    made_up = Secret(f"made-up-{secrets.token_hex(4)}")
    pair = bench.authority.issue_server([bench.service.host])
    encounter, said = _meet(bench.service.but(password=made_up), pair)
    facts = {"libpq": said or "logged in", "certificate_accepted": encounter.trusted}
    if encounter.captured == made_up:
        facts["captured_password"] = made_up.reveal()
    came_so_far = encounter.trusted and not encounter.password
    return Attempt(not encounter.password, frozenset({_NO_PASSWORD}) if came_so_far else frozenset(), facts)


def _stripped(bench: Bench) -> Attempt:
    """Relay to the server with a good certificate, and leave SCRAM-SHA-256-PLUS out of what it offers."""
    assert bench.authority is not None
    service = bench.service
    pair = bench.authority.issue_server([service.host])
    with Impostor(pair, (service.address, service.port), strips_binding=True) as impostor:
        said = refusal(service.but(hostaddr="127.0.0.1", port=impostor.port))
        encounter = impostor.met()
    reasons = {_NO_BINDING} if said and encounter.stripped and "channel binding" in said else set()
    return Attempt(said is not None, frozenset(reasons), {"libpq": said or "logged in"})


def _meet(client: Conninfo, certificate: KeyPair | None) -> tuple[Encounter, str | None]:
    with Impostor(certificate, None, keep_password=True) as impostor:
        said = refusal(client.but(hostaddr="127.0.0.1", port=impostor.port))
        return impostor.met(), said


def _good(bench: Bench) -> str | None:
    return refusal(bench.service)


def _weaker(**params: str | None) -> Callable[[Bench], AbstractContextManager[Bench]]:
    @contextmanager
    def weaken(bench: Bench) -> Iterator[Bench]:
        yield bench.but(params)

    return weaken


CASES: tuple[Case[Bench], ...] = (
    Case(
        "mitm-denies-tls",
        PLAINTEXT,
        "a man in the middle answers N and asks for the password",
        _denied,
        _good,
        lambda _: (_NO_TLS,),
        weaken=_weaker(sslmode="prefer", require_auth=None, channel_binding=None, sslnegotiation=None),
    ),
    Case(
        "mitm-asks-password",
        PASSWORD,
        "a server with a good certificate asks for the password in clear",
        _asked,
        _good,
        lambda _: (_NO_PASSWORD,),
        frozenset({Need.AUTHORITY}),
        _weaker(require_auth=None, channel_binding=None),
    ),
    Case(
        "mitm-strips-binding",
        IMPERSONATION,
        "a man in the middle with a good certificate takes channel binding out",
        _stripped,
        _good,
        lambda _: (_NO_BINDING,),
        frozenset({Need.AUTHORITY}),
        _weaker(channel_binding="disable"),
    ),
)
