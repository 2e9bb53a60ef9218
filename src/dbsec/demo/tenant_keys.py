"""A KEK for each tenant in the lab's OpenBao, and what a service needs to use them and no more."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from dbsec.demo.stage import Stage
from dbsec.kms import open_admin
from dbsec.secret import Secret

KMS, TOKEN = "APP_KMS", "APP_KMS_TOKEN"
TTL_S = 5  # in production minutes: here a key that was rotated is to be seen in the same run
_POLICY = """
path "transit/encrypt/app-*" { capabilities = ["update"] }
path "transit/decrypt/app-*" { capabilities = ["update"] }
path "transit/rewrap/app-*"  { capabilities = ["update"] }
path "transit/keys/app-*"    { capabilities = ["read"] }
"""


@dataclass(frozen=True, slots=True)
class TenantKeys:
    """The KEKs are made; ``uri`` names them by tenant, ``token`` may wrap and unwrap under them."""

    uri: str
    token: Secret

    @classmethod
    def make(cls, stage: Stage) -> TenantKeys:
        """Make the KEKs, a policy and a token of it. Errors: ``KmsError``; ``httpx.HTTPError``."""
        with stage.admin() as session:
            tenants = [str(row[0]) for row in session.execute("SELECT id FROM app.tenants ORDER BY id")]
        for tenant in tenants:
            open_admin(admin_uri(stage), environ={}, tenant=tenant).create()
        return cls(key_uri(stage), bao_token(stage, "crypto", _POLICY))

    @property
    def settings(self) -> dict[str, str]:
        """What a process that encrypts is told, but for its token."""
        return {KMS: self.uri, "APP_KEY_TTL_S": str(TTL_S)}

    @property
    def credentials(self) -> dict[str, Secret]:
        """The token by the variable that refers to it."""
        return {TOKEN: self.token}


def key_uri(stage: Stage) -> str:
    """Return the uri of the tenants' KEKs, without a credential."""
    address = httpx.URL(_facts(stage)["address"])
    return f"vault-transit://{address.host}:{address.port}/transit/app-{{tenant}}?ca={stage.lab.site.ca_path}"


def admin_uri(stage: Stage) -> str:
    """Return the same with the administrator's token, which the service never has."""
    return f"{key_uri(stage)}&token=file:{_facts(stage)['token']}"


def _facts(stage: Stage) -> dict[str, Any]:
    return dict(stage.lab.site.state.facts["openbao"])


def bao_token(stage: Stage, purpose: str, policy: str) -> Secret:
    """Return a token of the lab's OpenBao that may do what one policy says. Errors: ``httpx.HTTPError``."""
    facts = _facts(stage)
    context = ssl.create_default_context(cafile=str(stage.lab.site.ca_path))
    headers = {"X-Vault-Token": Path(facts["token"]).read_text(encoding="utf-8").strip()}
    with httpx.Client(verify=context, trust_env=False, timeout=5, headers=headers) as client:
        base, name = f"{facts['address']}/v1", f"app-{purpose}"
        client.put(f"{base}/sys/policies/acl/{name}", json={"policy": policy}).raise_for_status()
        asked = {"policies": [name], "no_default_policy": False, "ttl": "1h", "display_name": purpose}
        made = client.post(f"{base}/auth/token/create-orphan", json=asked)
        made.raise_for_status()
        return Secret(str(made.json()["auth"]["client_token"]))
