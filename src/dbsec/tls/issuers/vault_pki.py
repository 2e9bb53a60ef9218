"""``vault-pki://host:port/MOUNT/ROLE``: certificates from the PKI engine of OpenBao or HashiCorp Vault.

The role decides what may be issued (names, use, longest life). The key is made by the server and crosses to here once,
over TLS. Source: OpenBao, "PKI secrets engine (API)".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from dbsec.errors import ConfigError
from dbsec.kms import uri
from dbsec.tls.ca import KeyPair
from dbsec.tls.issuers import Issued

if TYPE_CHECKING:
    from dbsec.vault import Vault

_TOOK = ("ca", "token", "namespace", "role_id", "secret_id")


class VaultPki:
    """Issues by one role of one mount. Errors of every call: those of ``dbsec.vault``."""

    def __init__(self, vault: Vault, mount: str, role: str) -> None:
        self._vault, self._mount, self._role = vault, mount, role

    def __repr__(self) -> str:
        return f"<VaultPki {self._mount}/{self._role}>"

    @classmethod
    def open(cls, address: str, *, environ: Mapping[str, str]) -> VaultPki:
        """Open it; ``token`` or ``secret_id`` are references (``file:``, ``env:``). Errors: ``ConfigError``."""
        from dbsec.vault import AppRole, Auth, Settings, TokenAuth, Vault

        parts = uri.split(address)
        parts.only(*_TOOK)
        mount, _, role = parts.path.strip("/").rpartition("/")
        if not (parts.host and mount and role):
            raise ConfigError(
                "a 'vault-pki:' uri names host, mount and role", hint="vault-pki://host:8200/pki/postgres"
            )
        auth: Auth = (
            AppRole(parts.query["role_id"], parts.required("secret_id"), environ)
            if "role_id" in parts.query
            else TokenAuth(parts.required("token"), environ)
        )
        ca = Path(parts.query["ca"]) if "ca" in parts.query else None
        settings = Settings(f"https://{parts.host}", ca=ca, namespace=parts.query.get("namespace", ""), timeout_s=10.0)
        return cls(Vault(settings, auth), mount, role)

    def issue_server(self, names: Sequence[str], lifetime: timedelta) -> Issued:
        """Issue for host names and addresses."""
        addresses = [name for name in names if _is_address(name)]
        hosts = [name for name in names if not _is_address(name)]
        body = {"alt_names": ",".join(hosts), "ip_sans": ",".join(addresses), "exclude_cn_from_sans": True}
        return self._issue(names[0], lifetime, body)

    def issue_client(self, role: str, lifetime: timedelta) -> Issued:
        """Issue for a role."""
        return self._issue(role, lifetime, {"exclude_cn_from_sans": True})

    def revoke(self, serial: int) -> None:
        """Revoke at the server, which adds it to its list."""
        digits = f"{serial:x}"
        digits = digits.zfill(len(digits) + len(digits) % 2)
        pairs = ":".join(digits[n : n + 2] for n in range(0, len(digits), 2))
        self._vault.write(f"{self._mount}/revoke", {"serial_number": pairs})

    def crl(self, lifetime: timedelta) -> bytes:
        """Let the server sign a fresh list; how long it is good is set there (``config/crl``)."""
        from dbsec.vault import part

        self._vault.read(f"{self._mount}/crl/rotate")
        return str(part(self._vault.read(f"{self._mount}/cert/crl"), "data", "certificate")).encode() + b"\n"

    def _issue(self, name: str, lifetime: timedelta, body: Mapping[str, object]) -> Issued:
        from dbsec.vault import part

        asked = {"common_name": name, "ttl": f"{int(lifetime.total_seconds())}s", "private_key_format": "pkcs8", **body}
        answer = self._vault.write(f"{self._mount}/issue/{self._role}", asked)
        certificate, key, ca = (str(part(answer, "data", one)) for one in ("certificate", "private_key", "issuing_ca"))
        return Issued(KeyPair(certificate.encode() + b"\n", key.encode() + b"\n"), ca.encode() + b"\n")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
