"""Where a server is and how long it is waited for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dbsec.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Settings:
    """One server. ``address`` is ``https://host:port``; ``ca`` a PEM file, None the CAs that requests ships.

    ``timeout_s`` is for the connect, and again for each wait for bytes of the answer. The environment (VAULT_ADDR,
    REQUESTS_CA_BUNDLE, HTTPS_PROXY, ~/.vault-token) says nothing here.
    """

    address: str
    ca: Path | None = None
    namespace: str = ""
    timeout_s: float = 2.0

    def __post_init__(self) -> None:
        host = self.address.removeprefix("https://")
        if host == self.address or not host or set(host) & set("/?#@ "):
            raise ConfigError(
                f"'{self.address}' is no address of a Vault server",
                hint="write https://host:port: a token is never sent in clear",
            )
        if self.ca is not None and not self.ca.is_file():
            raise ConfigError(f"CA file '{self.ca}' is not there", hint=f"ls -l {self.ca}")

    @property
    def host(self) -> str:
        return self.address.removeprefix("https://")
