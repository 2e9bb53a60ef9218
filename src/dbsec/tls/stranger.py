"""Let a client meet a stranger in its server's place, under the client's own settings, and see what it does."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from dbsec.clock import SYSTEM
from dbsec.errors import ConnectError
from dbsec.pg import Conninfo, connect
from dbsec.tls import probe
from dbsec.tls.ca import Authority, KeyPair, self_signed
from dbsec.tls.impostor import Encounter, Impostor

_NAME_MISMATCH, _ADDRESS_MISMATCH = 62, 64


@dataclass(frozen=True, slots=True)
class Stranger:
    """A certificate that must not be trusted. ``verify_code`` is what OpenSSL finds (X509_V_ERR_*);
    ``certificate`` makes it from the site's CA and the host name that the client dials.
    """

    name: str
    verify_code: int
    certificate: Callable[[Authority, str], KeyPair]

    def code_for(self, host: str) -> int:
        """Return the code for a client that dials ``host``: that of a wrong name is another for an address."""
        return _ADDRESS_MISMATCH if self.verify_code == _NAME_MISMATCH and is_address(host) else self.verify_code


def _another_host(authority: Authority, _: str) -> KeyPair:
    return authority.issue_server(["impostor.invalid"])


def _unknown_ca(_: Authority, host: str) -> KeyPair:
    return Authority.create("an authority that nobody here trusts").issue_server([host])


def _expired(authority: Authority, host: str) -> KeyPair:
    return authority.issue_server([host], start=SYSTEM.now() - timedelta(days=91), lifetime=timedelta(days=90))


def _not_yet_valid(authority: Authority, host: str) -> KeyPair:
    return authority.issue_server([host], start=SYSTEM.now() + timedelta(days=1))


def _self_signed(_: Authority, host: str) -> KeyPair:
    return self_signed([host])


STRANGERS: Mapping[str, Stranger] = {
    s.name: s
    for s in (
        Stranger("another host name", 62, _another_host),
        Stranger("an unknown CA", 20, _unknown_ca),
        Stranger("an expired certificate", 10, _expired),
        Stranger("a certificate of tomorrow", 9, _not_yet_valid),
        Stranger("a self-signed certificate", 18, _self_signed),
    )
}


@dataclass(frozen=True, slots=True)
class Meeting:
    """How it went. ``refusal`` and ``control`` are what libpq said of the stranger and of a man in the middle with a
    good certificate, None where it logged in; ``verify_code`` is OpenSSL's for the stranger's, 0 where it is good.
    """

    encounter: Encounter
    refusal: str | None
    verify_code: int
    control: str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "certificate_accepted": self.encounter.trusted,
            "password_given": self.encounter.password,
            "libpq": self.refusal or "logged in",
            "alert": self.encounter.alert.name.lower() if self.encounter.alert else "",
            "verify_code": self.verify_code,
            "good_certificate": self.control or "logged in",
        }


def impersonate(client: Conninfo, authority: Authority, stranger: Stranger) -> Meeting:
    """Route a client to a stranger that asks for the password in clear; then, as the positive control, to a man in the
    middle with a good certificate, who relays to the server. Errors: ``ConnectError``, ``GaveUp``.

    A stranger that relays would prove less: SCRAM's channel binding finds him even where nobody looks at certificates.
    """
    upstream = (client.address, client.port)
    with Impostor(stranger.certificate(authority, client.host), None) as impostor:
        judged = probe.certificate("127.0.0.1", impostor.port, server_name=client.host, ca=authority.certificate)
        impostor.met()
        said = refusal(_routed(client, impostor))
        encounter = impostor.met()
    # A server that asks for a client certificate would refuse the relay, and that would not be the stranger's fault.
    shown = authority.issue_client(client.user) if "sslcert" in client.params else None
    with Impostor(authority.issue_server([client.host]), upstream, shown=shown) as good:
        # Channel binding finds the man in the middle by itself, good certificate or not; here the certificate decides.
        control = refusal(_routed(client, good).but(channel_binding="disable"))
    return Meeting(encounter, said, judged.verify_code if isinstance(judged, probe.TlsRefusal) else 0, control)


def ask_for_password(client: Conninfo, authority: Authority) -> tuple[Encounter, str | None]:
    """Route a client to a stranger with a good certificate that asks for the password in clear.

    Returns what it did, and what libpq said, None where it was content.
    """
    with Impostor(authority.issue_server([client.host]), None) as impostor:
        said = refusal(_routed(client, impostor))
        return impostor.met(), said


def is_address(host: str) -> bool:
    """Tell an IP address from a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def refusal(conninfo: Conninfo) -> str | None:
    """Try to log in; None where it succeeds, else the reason."""
    try:
        connect(conninfo).close()
    except ConnectError as exc:
        return exc.message
    return None


def _routed(client: Conninfo, impostor: Impostor) -> Conninfo:
    return client.but(hostaddr="127.0.0.1", port=impostor.port)
