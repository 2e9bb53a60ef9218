"""Transit as a KMS: keys that bind, batches beyond the server's limit, what disabling and destroying mean there."""

from __future__ import annotations

import base64
import secrets

import pytest
from tests.clocks import Hands
from tests.openbao import OpenBao

from dbsec.kms import Aad, Kms, KmsAdmin, KmsRefused, KmsUnavailable, Patience, aad_bytes, open_admin, open_kms
from dbsec.kms.schemes import vault_transit
from dbsec.kms.schemes._wrapped import packed, unpacked
from dbsec.vault import VaultNotFound

AAD: Aad = {"dbsec": "keyring/1", "tenant": "acme", "context": "app.users", "purpose": "data", "generation": "1"}
OTHER: Aad = {**AAD, "tenant": "globex"}
DEK = bytes(range(32))


def new(openbao: OpenBao, clock: Hands | None = None) -> tuple[Kms, KmsAdmin, str]:
    name = f"kek-{secrets.token_hex(4)}"
    more = {"clock": clock} if clock else {}
    admin = open_admin(openbao.uri(name), environ={})
    admin.create()
    return open_kms(openbao.uri(name), environ={}, **more), admin, name


def test_the_key_that_is_made_is_derived_and_stays_in_the_server(openbao):
    _, admin, name = new(openbao)
    told = openbao.admin().read(f"transit/keys/{name}")["data"]
    assert told["type"] == "aes256-gcm96"
    assert told["derived"] is True
    assert (told["exportable"], told["allow_plaintext_backup"]) == (False, False)
    assert admin.rotate().notes == ()


def test_a_key_that_does_not_bind_is_refused_with_the_command_that_mends_it(openbao):
    """On such a key the server ignores the context, which is shown first: the refusal is ours."""
    name, server = f"plain-{secrets.token_hex(4)}", openbao.admin()
    server.write(f"transit/keys/{name}", {"type": "aes256-gcm96"})
    encoded = {"plaintext": base64.b64encode(DEK).decode(), "context": base64.b64encode(aad_bytes(AAD)).decode()}
    text = server.write(f"transit/encrypt/{name}", encoded)["data"]["ciphertext"]
    moved = {"ciphertext": text, "context": base64.b64encode(aad_bytes(OTHER)).decode()}
    assert base64.b64decode(server.write(f"transit/decrypt/{name}", moved)["data"]["plaintext"]) == DEK

    kms = open_kms(openbao.uri(name), environ={})
    for act in (
        lambda: kms.wrap(DEK, AAD),
        lambda: kms.unwrap(packed(text), AAD),
        lambda: kms.rewrap(packed(text), AAD),
    ):
        with pytest.raises(KmsRefused, match="is not derived") as refused:
            act()
        assert f"bao write -f transit/keys/{name}-derived type=aes256-gcm96 derived=true" in refused.value.hint
    assert [type(one) for one in kms.unwrap_many([(packed(text), AAD)])] == [KmsRefused]
    assert "not derived" in kms.describe().notes[0]


def test_a_name_that_comes_to_mean_a_key_that_does_not_bind_is_noticed(openbao):
    clock = Hands()
    kms, admin, name = new(openbao, clock)
    kms.wrap(DEK, AAD)
    admin.destroy()
    openbao.admin().write(f"transit/keys/{name}", {"type": "aes256-gcm96"})
    clock.seconds = 301
    with pytest.raises(KmsRefused, match="is not derived"):
        kms.wrap(DEK, AAD)


def test_what_may_be_exported_is_told(openbao):
    _, _, name = new(openbao)
    openbao.admin().write(f"transit/keys/{name}/config", {"exportable": True, "allow_plaintext_backup": True})
    notes = open_kms(openbao.uri(name), environ={}).describe().notes
    assert [("export" in note, "backup" in note) for note in notes] == [(True, False), (False, True)]


def test_wrapping_makes_no_key(openbao):
    """With the right to create, Transit makes the key that it is asked to encrypt with."""
    kms, admin, name = new(openbao)
    kms.wrap(DEK, AAD)
    admin.destroy()
    with pytest.raises(KmsRefused, match="there is no key"):
        kms.wrap(DEK, AAD)
    assert name not in openbao.admin().names("transit/keys")


def test_a_batch_beyond_the_servers_limit_is_cut(openbao):
    kms, _, _ = new(openbao)
    wrapped = kms.wrap(DEK, AAD)
    items = [(wrapped, AAD)] * 600
    for at, bad in {0: (wrapped, OTHER), 249: (b"", AAD), 599: (wrapped[:-1], AAD)}.items():
        items[at] = bad
    opened = kms.unwrap_many(items)
    assert [at for at, one in enumerate(opened) if isinstance(one, KmsRefused)] == [0, 249, 599]
    assert {bytes(one) for one in opened if isinstance(one, bytearray)} == {DEK}
    again = kms.rewrap_many(items)
    assert [at for at, one in enumerate(again) if isinstance(one, KmsRefused)] == [0, 249, 599]
    assert kms.unwrap(again[1], AAD) == DEK


def test_a_batch_that_the_server_finds_too_large_is_halved(openbao, monkeypatch):
    monkeypatch.setattr(vault_transit, "_BATCH", 600)  # hook: ok a larger batch, so that the real server refuses it
    kms, _, name = new(openbao)
    wrapped = kms.wrap(DEK, AAD)
    asked = openbao.audited(f"transit/decrypt/{name}")
    assert [bytes(one) for one in kms.unwrap_many([(wrapped, AAD)] * 600)] == [DEK] * 600
    assert openbao.audited(f"transit/decrypt/{name}") > asked + 600 // 249


def test_versions_below_the_least_are_refused_and_rewrapping_saves_a_dek(openbao):
    kms, admin, name = new(openbao)
    old = kms.wrap(DEK, AAD)
    assert admin.rotate().version == "2"
    saved = kms.rewrap(old, AAD)
    openbao.admin().write(f"transit/keys/{name}/config", {"min_decryption_version": 2})
    with pytest.raises(KmsRefused, match="too old"):
        kms.unwrap(old, AAD)
    assert kms.unwrap(saved, AAD) == DEK


def test_disabling_a_server_without_soft_deletion_says_what_to_do(openbao):
    """HashiCorp Vault has none; what it answers then, OpenBao answers to another path that it does not know."""
    with pytest.raises(VaultNotFound, match="unsupported path") as unknown:
        openbao.admin().delete("transit/keys/kek/what-no-server-has")
    admin = vault_transit.TransitAdmin(vault_transit.TransitKey(openbao.admin(), "transit", "kek"), Hands())
    refused = admin._without_soft_deletion(unknown.value, "disable")
    assert isinstance(refused, KmsRefused)
    assert 'capabilities = ["deny"]' in refused.hint


def test_nothing_is_rotated_while_disabled(openbao):
    _, admin, _ = new(openbao)
    admin.disable()
    with pytest.raises(KmsRefused, match="is disabled"):
        admin.rotate()
    assert admin.enable().version == "1"


def test_a_key_for_each_tenant_and_one_login_for_all(openbao):
    role = openbao.approle('path "transit/+/+" { capabilities = ["read", "update"] }')
    address = openbao.uri("acme-{tenant}").partition("?")[0]
    login = f"auth=approle&role_id={role.role_id}&secret_id={role.secret_id}&ca={openbao.ca}"
    tenants = [f"t{secrets.token_hex(3)}" for _ in range(5)]
    for tenant in tenants:
        open_admin(openbao.uri("acme-{tenant}"), environ={}, tenant=tenant).create()
    kms, logins = open_kms(f"{address}?{login}", environ={}), openbao.audited("auth/approle/login")
    wrapped = {tenant: kms.wrap(DEK, {"tenant": tenant}) for tenant in tenants}
    assert openbao.audited("auth/approle/login") == logins + 1
    open_admin(openbao.uri("acme-{tenant}"), environ={}, tenant=tenants[0]).destroy()
    opened = kms.unwrap_many([(w, {"tenant": t}) for t, w in wrapped.items()])
    assert [type(one) for one in opened] == [KmsRefused, *[bytearray] * 4]


def test_a_server_that_is_away(openbao_factory):
    server = openbao_factory()
    kms = open_kms(server.uri("kek"), environ={}, patience=Patience(10, within_s=0.5, failures=1000))
    hurried = open_kms(server.uri("kek"), environ={}, patience=Patience(timeout_s=0.3, within_s=0.5))
    open_admin(server.uri("kek"), environ={}).create()
    wrapped = kms.wrap(DEK, AAD)
    server.pause()
    with pytest.raises(KmsUnavailable, match="did not answer"):
        hurried.unwrap(wrapped, AAD)
    assert [type(one) for one in hurried.unwrap_many([(wrapped, AAD)] * 500)] == [KmsUnavailable] * 500
    server.resume()
    assert kms.unwrap(wrapped, AAD) == DEK
    server.admin().write("sys/seal")
    with pytest.raises(KmsUnavailable, match="sealed"):
        kms.unwrap(wrapped, AAD)
    server.stop()


def test_the_audit_file_tells_the_key_and_neither_dek_nor_context(openbao):
    kms, _, name = new(openbao)
    kms.unwrap(kms.wrap(DEK, AAD), AAD)
    told = openbao.audit_log.read_text()
    assert f"transit/decrypt/{name}" in told
    for held in (DEK, aad_bytes(AAD)):
        assert base64.b64encode(held).decode() not in told


def test_no_bit_of_a_wrapped_dek_can_be_changed(openbao):
    kms, _, _ = new(openbao)
    wrapped = kms.wrap(DEK, AAD)
    changed = [
        wrapped[:at] + bytes([wrapped[at] ^ 1 << bit]) + wrapped[at + 1 :] for at in range(65) for bit in range(8)
    ]
    cut = [wrapped[:length] for length in range(len(wrapped))]
    assert len(wrapped) == 65
    opened = kms.unwrap_many([(one, AAD) for one in [*changed, *cut, wrapped + b"\0", wrapped]])
    assert {type(one) for one in opened[:-1]} == {KmsRefused}
    assert opened[-1] == DEK


def test_the_servers_own_text_has_several_spellings(openbao):
    """Why a wrapped DEK is not kept as the text that Transit gives."""
    kms, _, name = new(openbao)
    text = unpacked(kms.wrap(DEK, AAD))
    body = {"ciphertext": text.replace(":v1:", ":v0:"), "context": base64.b64encode(aad_bytes(AAD)).decode()}
    opened = openbao.admin().write(f"transit/decrypt/{name}", body)["data"]["plaintext"]
    assert base64.b64decode(opened) == DEK
