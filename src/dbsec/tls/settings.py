"""``[tls]`` of dbsec.toml: who comes in from where, by which proof, and what the server serves."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from dbsec.config import Config, Section
from dbsec.errors import ConfigError
from dbsec.tls import posture
from dbsec.tls.ca import KeyPair
from dbsec.tls.issuers import placing
from dbsec.tls.posture import Posture


def _network(text: str) -> str:
    if text not in ("all", "samenet", "samehost"):
        ip_network(text)  # ValueError says what is wrong
    return text


Network = Annotated[str, AfterValidator(_network)]


class TlsSettings(Section):
    """Groups are roles (``+group`` in pg_hba.conf); ``networks`` are CIDR ranges, from which they come.

    ``certificate`` is NAME.crt with NAME.key beside it; ``server_ca`` is what clients trust, ``client_ca`` who signs
    client certificates, ``crl`` its list of revoked ones: PEM files. ``settings`` goes above those that dbsec sets;
    ``ssl_tls13_ciphers`` and ``ssl_groups`` are of PostgreSQL 18.
    """

    networks: tuple[Network, ...] = Field(min_length=1)
    admin: str = "postgres"
    admin_networks: tuple[Network, ...] = posture.LOOPBACK
    scram: tuple[str, ...] = posture.BY_PASSWORD
    mtls: tuple[str, ...] = posture.BY_CERTIFICATE
    replication: tuple[str, ...] = posture.STREAMING
    certificate: Path
    server_ca: Path
    client_ca: Path
    crl: Path | None = None
    policy: str = "intermediate"
    settings: dict[str, str] = Field(default_factory=dict)


def of(config: Config) -> TlsSettings:
    """Read the table of a configuration. Errors: ``ConfigError`` with the key."""
    try:
        return TlsSettings.model_validate(config.pillars.get("tls", {}))
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        text = first["msg"].removeprefix("Value error, ")
        hint = "see docs/encryption_in_transit.md"
        raise ConfigError(f"[tls] '{key}': {text[:1].lower()}{text[1:]}", hint=hint) from exc


def posture_of(settings: TlsSettings, *, transitional: bool = False) -> Posture:
    """Read the files that the table names. Errors: ``ConfigError``."""
    return Posture(
        pair_of(settings.certificate),
        _read(settings.server_ca),
        _read(settings.client_ca),
        posture.hba(
            admin=settings.admin,
            scram=settings.scram,
            mtls=settings.mtls,
            replication=settings.replication,
            networks=settings.networks,
            admin_networks=settings.admin_networks,
            transitional=transitional,
        ),
        {**posture.SETTINGS, **settings.settings},
        _read(settings.crl) if settings.crl else None,
    )


def pair_of(certificate: Path) -> KeyPair:
    """Read NAME.crt and NAME.key. Errors: ``ConfigError``."""
    return placing.read(certificate.parent, certificate.name.removesuffix(".crt"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"cannot read '{path}': {exc.strerror}", hint="dbsec tls ca create DIR") from exc
