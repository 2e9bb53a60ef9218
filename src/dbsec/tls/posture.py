"""What encryption in transit means for one PostgreSQL server: its certificate, its settings, its hba lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dbsec.pg.hba import HbaLine, literal
from dbsec.tls.ca import KeyPair

CERTIFICATE_FILE = "server.crt"
KEY_FILE = "server.key"
CLIENT_CA_FILE = "root.crt"
CRL_FILE = "root.crl"
LOOPBACK = ("127.0.0.1/32", "::1/128")

# TLS 1.2 is what NIST SP 800-52r2 3.1 still allows; cipher suites and groups keep PostgreSQL's own defaults.
SETTINGS: Mapping[str, str] = {
    "ssl": "on",
    "ssl_cert_file": CERTIFICATE_FILE,
    "ssl_key_file": KEY_FILE,
    "ssl_ca_file": CLIENT_CA_FILE,
    "ssl_min_protocol_version": "TLSv1.2",
    "password_encryption": "scram-sha-256",
}
# The groups of the reference deployment (db/roles.toml); whoever is in none of them is not let in.
BY_PASSWORD = ("app_readwrite", "app_readonly", "app_rotator")
BY_CERTIFICATE = ("app_migrator", "app_backup")
STREAMING = ("app_backup",)
_MTLS = ("clientcert=verify-full",)
_EVERYTHING = ("all", "replication")  # "all" does not cover replication


@dataclass(frozen=True, slots=True)
class Posture:
    """The state to reach. ``server_ca`` (PEM) is what clients check ``certificate`` against; ``client_ca`` (PEM) is
    what the server checks client certificates against; ``crl`` (PEM) those that it has revoked: with a list the server
    refuses every client certificate once the list is past its nextUpdate.
    """

    certificate: KeyPair
    server_ca: bytes
    client_ca: bytes
    hba: tuple[HbaLine, ...]
    settings: Mapping[str, str] = field(default_factory=lambda: dict(SETTINGS))
    crl: bytes | None = None

    @property
    def all_settings(self) -> Mapping[str, str]:
        """The settings, that of the revocation list among them where there is one."""
        return {**self.settings, "ssl_crl_file": CRL_FILE} if self.crl else self.settings


def hba(
    *,
    admin: str,
    scram: Sequence[str] = BY_PASSWORD,
    mtls: Sequence[str] = BY_CERTIFICATE,
    replication: Sequence[str] = STREAMING,
    networks: Sequence[str] = ("all",),
    admin_networks: Sequence[str] = LOOPBACK,
    transitional: bool = False,
) -> tuple[HbaLine, ...]:
    """Write the lines for groups: who logs in by password over TLS, who needs a client certificate too.

    ``admin`` is a superuser's login; ``replication`` are those of ``mtls`` that may also stream; ``networks`` are CIDR
    ranges or ``all``. ``transitional`` still lets everyone of ``networks`` in, also in clear and by MD5, until all have
    moved (expand).
    """
    by_certificate, streaming = _members_of(mtls), _members_of(replication)
    # Certificates come first: a login in groups of both kinds must not slip in by its password alone.
    lines = [
        *_each(networks, "a password, and a client certificate with the login's name", ("all",), by_certificate, _MTLS),
        *_each(networks, "backups and replicas, by the same proof", ("replication",), streaming, _MTLS),
        *_each(networks, "a password, over TLS only", ("all",), _members_of(scram)),
        *_each(admin_networks, "administration, from this machine", _EVERYTHING, (literal(admin),)),
    ]
    if transitional:
        why = "everyone, in clear too: only until every client has moved"
        lines += _each(networks, why, _EVERYTHING, ("all",), kind="host", method="md5")
    return (
        *lines,
        HbaLine("hostnossl", _EVERYTHING, ("all",), "all", "reject", (), "nobody in clear, and nobody else"),
        HbaLine("host", _EVERYTHING, ("all",), "all", "reject"),
    )


def _members_of(groups: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"+{group}" for group in groups)


def _each(
    networks: Sequence[str],
    why: str,
    databases: tuple[str, ...],
    users: tuple[str, ...],
    options: tuple[str, ...] = (),
    *,
    kind: str = "hostssl",
    method: str = "scram-sha-256",
) -> list[HbaLine]:
    """Write one line for each network, the reason above the first; none for nobody."""
    chosen = networks if users else ()
    return [
        HbaLine(kind, databases, users, network, method, options, why if n == 0 else "")
        for n, network in enumerate(chosen)
    ]
