"""The two policies of docs/kms.md on a real OpenBao: what each allows, and all that it must not."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.openbao import OpenBao

from dbsec.kms import Aad, KmsRefused, aad_bytes, open_admin, open_kms
from dbsec.vault import Vault, VaultRefused

PAGE = (Path(__file__).parents[2] / "docs/kms.md").read_text()
AAD: Aad = {"dbsec": "keyring/1", "tenant": "acme"}
DEK = bytes(range(32))
PLAIN = {"plaintext": base64.b64encode(DEK).decode(), "context": base64.b64encode(aad_bytes(AAD)).decode()}


def policy(who: str) -> str:
    found = re.search(rf"```hcl\n# {who}\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"docs/kms.md has no policy for the {who}"
    return found[1]


@pytest.fixture(scope="module")
def service(openbao: OpenBao) -> Path:
    return openbao.token(policy("service"))


@pytest.fixture(scope="module")
def administrator(openbao: OpenBao) -> Path:
    return openbao.token(policy("administrator"))


@pytest.fixture
def key(openbao: OpenBao, administrator: Path) -> str:
    name = f"dbsec-{secrets.token_hex(4)}"
    open_admin(openbao.uri(name, token_file=administrator), environ={}).create()
    return name


def test_the_service_wraps_and_unwraps(openbao, service, administrator, key):
    kms = open_kms(openbao.uri(key, token_file=service), environ={})
    wrapped = kms.wrap(DEK, AAD)
    open_admin(openbao.uri(key, token_file=administrator), environ={}).rotate()
    assert kms.unwrap(kms.rewrap(wrapped, AAD), AAD) == DEK
    assert kms.describe().version == "2"


@pytest.mark.parametrize("act", ["create", "rotate", "disable", "enable", "destroy"])
def test_the_service_has_no_power_over_the_life_of_a_key(openbao, service, key, act):
    name = f"dbsec-{secrets.token_hex(4)}" if act == "create" else key
    with pytest.raises(KmsRefused, match="permission denied"):
        getattr(open_admin(openbao.uri(name, token_file=service), environ={}), act)()
    kms = open_kms(openbao.uri(key, token_file=service), environ={})
    assert kms.unwrap(kms.wrap(DEK, AAD), AAD) == DEK


FORBIDDEN: dict[str, Callable[[Vault, str], object]] = {
    "export": lambda vault, key: vault.read(f"transit/export/encryption-key/{key}"),
    "backup": lambda vault, key: vault.read(f"transit/backup/{key}"),
    "restore": lambda vault, key: vault.write(f"transit/restore/{key}", {"backup": "none"}),
    "byok": lambda vault, key: vault.read(f"transit/byok-export/{key}/{key}"),
    "list": lambda vault, key: vault.names("transit/keys"),
    "a data key": lambda vault, key: vault.write(f"transit/datakey/plaintext/{key}", PLAIN),
    "hmac": lambda vault, key: vault.write(f"transit/hmac/{key}", {"input": PLAIN["plaintext"]}),
    "a key of others": lambda vault, key: vault.write("transit/encrypt/payroll", PLAIN),
    "the mount": lambda vault, key: vault.write("transit/config/keys", {"disable_upsert": False}),
    "policies": lambda vault, key: vault.write("sys/policies/acl/mine", {"policy": 'path "*" {}'}),
    "another token": lambda vault, key: vault.write("auth/token/create", {"policies": ["admin"]}),
    "secrets": lambda vault, key: vault.read("sys/mounts"),
}


@pytest.mark.parametrize("who", ["service", "administrator"])
@pytest.mark.parametrize("what", FORBIDDEN)
def test_neither_may(openbao, request, key, who, what):
    with pytest.raises(VaultRefused, match="permission denied"):
        FORBIDDEN[what](openbao.client(request.getfixturevalue(who)), key)


@pytest.mark.parametrize("act", ["wrap", "unwrap", "rewrap"])
def test_the_administrator_opens_nothing(openbao, service, administrator, key, act):
    wrapped = open_kms(openbao.uri(key, token_file=service), environ={}).wrap(DEK, AAD)
    kms = open_kms(openbao.uri(key, token_file=administrator), environ={})
    with pytest.raises(KmsRefused, match="permission denied") as refused:
        getattr(kms, act)(DEK if act == "wrap" else wrapped, AAD)
    assert "docs/kms.md" in refused.value.hint


def test_the_administrator_ends_a_key(openbao, service, administrator, key):
    kms = open_kms(openbao.uri(key, token_file=service), environ={})
    admin = open_admin(openbao.uri(key, token_file=administrator), environ={})
    wrapped = kms.wrap(DEK, AAD)
    admin.disable()
    with pytest.raises(KmsRefused, match="soft-deleted"):
        kms.unwrap(wrapped, AAD)
    admin.enable()
    assert kms.unwrap(wrapped, AAD) == DEK
    admin.destroy()
    with pytest.raises(KmsRefused, match="not found"):
        kms.unwrap(wrapped, AAD)


def test_the_right_to_create_would_bring_a_destroyed_name_to_life(openbao, service):
    """Why the service's policy has no such right: asked plainly, Transit makes the key that is not there."""
    absent = f"transit/encrypt/dbsec-{secrets.token_hex(4)}"
    with pytest.raises(VaultRefused, match="permission denied"):
        openbao.client(service).write(absent, PLAIN)
    weaker = re.sub(r'(encrypt/dbsec-\*" \{ capabilities = \[)', r'\1"create", ', policy("service"))
    assert weaker != policy("service")
    assert openbao.client(openbao.token(weaker)).write(absent, PLAIN)["data"]["ciphertext"]
