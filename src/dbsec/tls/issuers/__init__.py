"""Who issues certificates: a CA in a folder, or the PKI engine of OpenBao or Vault; chosen by the address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from dbsec.tls.ca import KeyPair


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key, and the CA (PEM) that others check it against."""

    pair: KeyPair
    ca: bytes


class Issuer(Protocol):
    """Issues and revokes. Errors: ``ConfigError``, and those of where it lies."""

    def issue_server(self, names: Sequence[str], lifetime: timedelta) -> Issued:
        """Issue for host names and addresses; the first one is the subject."""
        ...

    def issue_client(self, role: str, lifetime: timedelta) -> Issued:
        """Issue for a database role, which is the common name."""
        ...

    def revoke(self, serial: int) -> None:
        """Revoke for ever; it counts once servers have the next list."""
        ...

    def crl(self, lifetime: timedelta) -> bytes:
        """Return a revocation list in PEM."""
        ...


def open_issuer(address: str, *, environ: Mapping[str, str]) -> Issuer:
    """Open ``vault-pki://host:port/MOUNT/ROLE?ca=FILE&token=REF``, ``file:DIR``, or a folder.

    Errors: ``ConfigError``, which quotes no credential.
    """
    if address.startswith("vault-pki:"):
        from dbsec.tls.issuers.vault_pki import VaultPki

        return VaultPki.open(address, environ=environ)
    from dbsec.tls.issuers.folder import CaFolder

    return CaFolder.open(Path(address.removeprefix("file:")))
