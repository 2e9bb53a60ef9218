"""Logins of the matrix as somebody at a terminal sees them: the DSN, what libpq said, and what a stranger has by then.

They are run, not written: with the matrix as the proof, this is the picture of it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbsec.errors import ConnectError
from dbsec.pg import Conninfo, connect
from dbsec.secret import Secret
from dbsec.tls.ca import Authority, KeyPair
from dbsec.tls.impostor import Encounter, Impostor
from dbsec.tls.matrix.bench import Bench
from dbsec.tls.matrix.case import Need
from dbsec.tls.matrix.families import d_client_certificate as by_certificate
from dbsec.tls.stranger import STRANGERS

_MADE_UP = Secret("made-up-for-this")
_SHOWN = ("host", "user", "sslmode", "sslrootcert", "channel_binding", "require_auth", "sslcert")
_NO_FILE = "/nonexistent"
_PORT = re.compile(r"\bport \d+")
_SESSION = "SELECT version, cipher, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@dataclass(frozen=True, slots=True)
class Shot:
    """One login. ``dsn`` has neither password nor port, and of files the names; ``said``: libpq's lines, or the
    session's TLS; ``then``: what a stranger holds after it; ``meant``: it ended as a careful site wants it.
    """

    what: str
    dsn: str
    said: tuple[str, ...]
    let_in: bool
    meant: bool
    then: str = ""


@dataclass(frozen=True, slots=True)
class Scene:
    """Logins that belong together; ``name`` is that of its picture."""

    name: str
    title: str
    shots: tuple[Shot, ...]


def scenes(bench: Bench) -> Iterator[Scene]:
    """Run the logins for which the bench has what they need. Errors: ``ConnectError``, ``GaveUp``."""
    yield Scene("plaintext", "nothing in clear", tuple(_plaintext(bench)))
    if bench.authority is None:
        return
    yield Scene("server_certificate", "who poses as the server", tuple(_server(bench, bench.authority)))
    yield Scene("password", "who asks for the password, who sits in the middle", tuple(_password(bench)))
    if bench.mtls is not None:
        yield Scene("client_certificate", "who comes in", tuple(_client(bench, bench.authority)))


def _plaintext(bench: Bench) -> Iterator[Shot]:
    service = bench.service
    yield _login("the service, to its own server", service, meant=True)
    in_clear = service.but(sslmode="disable", channel_binding=None, sslnegotiation=None)
    yield _login("the same login in clear", in_clear, meant=False)
    yield _met("somebody on the path answers that there is no TLS", service, None)
    prefer = service.but(sslmode="prefer", channel_binding=None, require_auth=None, sslrootcert=None)
    yield _met("the same, to a client that only prefers TLS", prefer, None)


def _server(bench: Bench, authority: Authority) -> Iterator[Shot]:
    service = bench.service
    yield _login("the service, to its own server", service, meant=True)
    for stranger in STRANGERS.values():
        yield _met(f"a stranger serves {stranger.name}", service, stranger.certificate(authority, service.host))
    self_signed = STRANGERS["a self-signed certificate"].certificate(authority, service.host)
    careless = service.but(sslmode="require", sslrootcert=_NO_FILE, channel_binding=None, require_auth=None)
    yield _met("the last one, to a client that encrypts and checks nothing", careless, self_signed)


def _password(bench: Bench) -> Iterator[Shot]:
    service, authority = bench.service, bench.authority
    assert authority is not None
    pair = authority.issue_server([service.host])
    asked = "a stranger with a good certificate asks for the password in clear"
    yield _met(asked, service, pair)
    gullible = service.but(require_auth=None, channel_binding=None)
    yield _met("the same, to a client that proves itself in any way", gullible, pair)
    if service.params.get("channel_binding") == "require":
        yield _stripped("a man in the middle relays, and takes channel binding out", service, pair, meant=False)
        open_to_it = service.but(channel_binding="disable")
        yield _stripped("the same, to a client that does without", open_to_it, pair, meant=True)


def _client(bench: Bench, authority: Authority) -> Iterator[Shot]:
    assert bench.mtls is not None
    login = bench.mtls.but(sslcert=None, sslkey=None, sslcertmode=None)
    good = authority.issue_client(login.user)
    yield _login("the password, and the certificate of the role", login, pair=good, meant=True)
    yield _login("the password alone", login.but(sslcertmode="disable"), meant=False)
    for what, make in by_certificate.BAD.items():
        yield _login(f"the password, and {what}", login, pair=make(authority, login.user), meant=False)
    if Need.SERVER in bench.offers and bench.pooler is None and bench.setting("ssl_crl_file"):
        with by_certificate.revoked(bench, good):
            yield _login("the good one, once it is revoked", login, pair=good, meant=False)


def _login(what: str, login: Conninfo, *, meant: bool, pair: KeyPair | None = None) -> Shot:
    """Log in; ``meant``: it is to succeed."""
    with tempfile.TemporaryDirectory(prefix="dbsec-") as private:
        if pair is not None:
            certificate, key = pair.save(Path(private), "client")
            login = login.but(sslcert=certificate, sslkey=key)
        let_in, said = _said(login)
    return Shot(what, _shown(login), said, let_in, meant is let_in)


def _met(what: str, client: Conninfo, certificate: KeyPair | None) -> Shot:
    """Route a client to a stranger who asks for the password: one that was made up."""
    with Impostor(certificate, None, keep_password=True) as impostor:
        _, said = _said(client.but(hostaddr="127.0.0.1", port=impostor.port, password=_MADE_UP))
        encounter = impostor.met()
    return Shot(what, _shown(client), said, False, not encounter.password, _taken(encounter))


def _stripped(what: str, client: Conninfo, pair: KeyPair, *, meant: bool) -> Shot:
    with Impostor(pair, (client.address, client.port), strips_binding=True) as impostor:
        let_in, said = _said(client.but(hostaddr="127.0.0.1", port=impostor.port))
        impostor.met()
    then = "every row of this session passes through a stranger" if let_in else ""
    return Shot(what, _shown(client), said, let_in, not let_in and not meant, then)


def _taken(encounter: Encounter) -> str:
    return f"the stranger has the password: {encounter.captured.reveal()}" if encounter.captured == _MADE_UP else ""


def _said(login: Conninfo) -> tuple[bool, tuple[str, ...]]:
    try:
        with connect(login) as connection:
            row: Sequence[str | None] = connection.execute(_SESSION).fetchone() or ()
    except ConnectError as exc:
        return False, _anywhere(str(exc.__cause__ or exc.message))
    version, cipher, subject = [*row, None, None, None][:3]
    return True, (f"{version or 'in clear'} {cipher or ''} {subject or ''}".strip(),)


def _anywhere(text: str) -> tuple[str, ...]:
    """Leave out of libpq's text what differs from run to run."""
    lines = (line.strip().removeprefix("connection failed: ") for line in text.strip().splitlines())
    return tuple(_PORT.sub("port 5432", line) for line in lines if line)


def _shown(login: Conninfo) -> str:
    return " ".join(
        f"{name}={Path(value).name if name in ('sslrootcert', 'sslcert') else value}"
        for name in _SHOWN
        if (value := login.params.get(name)) is not None and value != _NO_FILE
    )
