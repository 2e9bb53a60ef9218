"""Keys that are wrong, ended, swapped or away: nothing opens with them, and nothing is encrypted under them."""

from __future__ import annotations

import importlib
import itertools
import logging
import secrets
from dataclasses import fields, replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests import two_keys
from tests.clocks import Hands
from tests.envelopes import ACME, EMAIL, PHONE, Bench, KekFile, Refusal, bits, flipped, the_one_refusal

from dbsec.crypto import Envelope, Field, KeyMissing, Keyring, MemoryKeyStore, PostgresKeyStore, Purpose
from dbsec.crypto.binding import aad_prefix, label, row_part
from dbsec.crypto.dek import Dek
from dbsec.crypto.format import NONCE_BYTES, Algorithm, header_of, inline_header
from dbsec.kms import KmsRefused, KmsUnavailable, Patience, open_kms
from dbsec.kms.opening import open_admin
from dbsec.kms.uri import of_tenant
from dbsec.pg import connect, own

TTL = timedelta(minutes=5)
PLAIN = b"+4915112345678"
AT = {"tenant": ACME, "row": 1}
QUICK = Patience(timeout_s=0.3, within_s=0.2, failures=1000)
NEIGHBOUR = "globex"


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def _never_encrypts(envelope):
    for act in (
        lambda: envelope.encrypt(PLAIN, PHONE, **AT),
        lambda: envelope.encrypt_many([PLAIN], PHONE, tenant=ACME, rows=[1]),
    ):
        with pytest.raises((KmsRefused, KeyMissing)):
            act()


# --- the KEK


@pytest.fixture(params=["file_kek", "vault_transit", "pkcs11"])
def provider(request, tmp_path):
    return importlib.import_module(f"tests.kms_providers.{request.param}").provider(request, tmp_path)


class Kek:
    """A KEK of a provider, and its administrator."""

    def __init__(self, provider, patience=QUICK):
        name = f"kek-{secrets.token_hex(6)}"
        made = provider.admin or (lambda tenant: open_admin(provider.template, environ={}, tenant=tenant))
        self.admin = made(name)
        self.admin.create()
        self.kms = open_kms(of_tenant(provider.template, name), environ={}, patience=patience)


@pytest.fixture
def kek(provider):
    return Kek(provider)


def _all_kinds(envelope):
    return [
        envelope.encrypt(PLAIN, PHONE, **AT),
        envelope.encrypt_inline(PLAIN, PHONE, **AT),
        envelope.encrypt_deterministic(PLAIN, PHONE, tenant=ACME),
    ]


def test_under_another_kek_nothing_opens_and_nothing_is_encrypted(provider, kek, caplog):
    store = MemoryKeyStore()
    values = _all_kinds(Envelope(Keyring(store, kek.kms)))
    wrong = Envelope(Keyring(store, Kek(provider).kms))
    with caplog.at_level(logging.INFO, logger="dbsec.crypto"):
        assert {Refusal.of(wrong.decrypt, value, PHONE, **AT) for value in values} == {the_one_refusal(PHONE)}
    assert len([one for one in caplog.records if one.name.startswith("dbsec.crypto")]) == 3, "each cause is in the log"
    _never_encrypts(wrong)


@pytest.mark.parametrize("end", ["disable", "destroy"])
def test_a_kek_that_ended_is_served_from_the_cache_until_the_ttl_and_then_refused(kek, end, provider):
    if end in provider.lacks or ("disabled" in provider.lacks and end == "disable"):
        pytest.skip(provider.lacks.get(end) or provider.lacks["disabled"])
    clock, store = Hands(), MemoryKeyStore()
    envelope = Envelope(Keyring(store, kek.kms, ttl=TTL, clock=clock))
    by_reference, inline, deterministic = _all_kinds(envelope)
    for value in (by_reference, deterministic):
        assert envelope.decrypt(value, PHONE, **AT) == PLAIN
    try:
        getattr(kek.admin, end)()
    except KmsRefused as exc:
        assert end == "disable", exc  # noqa: PT017
        pytest.skip(f"it cannot: {exc}")
    clock.seconds = TTL.total_seconds() - 1
    for value in (by_reference, deterministic):
        assert envelope.decrypt(value, PHONE, **AT) == PLAIN
    assert Refusal.of(envelope.decrypt, inline, PHONE, **AT) == the_one_refusal(PHONE)
    clock.seconds = TTL.total_seconds()
    for ended in (envelope, Envelope(Keyring(store, kek.kms))):
        for value in (by_reference, inline, deterministic):
            assert Refusal.of(ended.decrypt, value, PHONE, **AT) == the_one_refusal(PHONE)
        _never_encrypts(ended)
    if end == "disable":
        kek.admin.enable()
        for value in (by_reference, inline, deterministic):
            assert envelope.decrypt(value, PHONE, **AT) == PLAIN


def test_while_the_kms_is_away_cached_keys_serve_and_then_the_error_says_so(kek, provider):
    if provider.away is None:
        pytest.skip(provider.lacks["away"])
    clock, store = Hands(), MemoryKeyStore()
    envelope = Envelope(Keyring(store, kek.kms, ttl=TTL, clock=clock))
    values = _all_kinds(envelope)
    cached = [values[0], values[2]]
    for value in cached:
        assert envelope.decrypt(value, PHONE, **AT) == PLAIN
    with provider.away():
        clock.seconds = TTL.total_seconds() - 1
        for value in cached:
            assert envelope.decrypt(value, PHONE, **AT) == PLAIN
        assert envelope.encrypt(PLAIN, PHONE, **AT)
        clock.seconds = TTL.total_seconds()
        for act in (
            lambda: envelope.decrypt(values[0], PHONE, **AT),
            lambda: envelope.decrypt(values[1], PHONE, **AT),
            lambda: envelope.decrypt(values[2], PHONE, **AT),
            lambda: envelope.decrypt_many(values, PHONE, tenant=ACME, rows=[1, 1, 1]),
            lambda: envelope.encrypt(PLAIN, PHONE, **AT),
            lambda: envelope.encrypt_inline(PLAIN, PHONE, **AT),
        ):
            with pytest.raises(KmsUnavailable):
                act()
    assert [envelope.decrypt(value, PHONE, **AT) for value in values] == [PLAIN] * 3


# --- the keyring, whose table an attacker can write


@pytest.mark.parametrize("part", ["wrapped", "commitment", "salt"])
def test_no_bit_of_a_keyring_row_can_be_flipped(bench, part):
    value = bench.envelope.encrypt(PLAIN, PHONE, **AT)
    lookup = bench.envelope.encrypt_deterministic(PLAIN, PHONE, tenant=ACME)
    rows = dict(bench.rows)
    for key_id, blob in ((1, value), (2, lookup)):
        for at, mask in bits(len(getattr(rows[key_id], part))):
            bench.rows[key_id] = replace(rows[key_id], **{part: flipped(getattr(rows[key_id], part), at, mask)})
            assert Refusal.of(bench.other().decrypt, blob, PHONE, **AT) == the_one_refusal(PHONE)
        bench.rows.update(rows)
        assert bench.other().decrypt(blob, PHONE, **AT) == PLAIN


@pytest.mark.parametrize("part", ["wrapped", "commitment", "salt"])
def test_a_keyring_row_cannot_be_cut_or_continued(bench, part):
    value = bench.envelope.encrypt(PLAIN, PHONE, **AT)
    row = bench.rows[1]
    whole = getattr(row, part)
    for other in [whole[:end] for end in range(len(whole))] + [whole + b"\0", whole + whole]:
        bench.rows[1] = replace(row, **{part: other})
        assert Refusal.of(bench.other().decrypt, value, PHONE, **AT) == the_one_refusal(PHONE)
        _never_encrypts(bench.other())


def _swaps(store, one, other):
    """Put every set of the columns of one key into another: what an attacker could try."""
    names = [each.name for each in fields(store.rows[one]) if each.name not in ("used", "created_at", "retired_at")]
    ours, theirs = store.rows[one], store.rows[other]
    different = [name for name in names if getattr(ours, name) != getattr(theirs, name)]
    for size in range(1, len(different) + 1):
        for chosen in itertools.combinations(different, size):
            mine = {name: getattr(theirs, name) for name in chosen}
            yield chosen, {row.id: row for row in (replace(ours, **mine), theirs)}


@pytest.mark.parametrize("which", ["another tenant", "another table", "the lookup key", "another generation"])
def test_no_set_of_columns_of_another_key_makes_a_value_open(bench, which):
    envelope = bench.envelope
    value = envelope.encrypt(PLAIN, PHONE, **AT)
    match which:
        case "another tenant":
            envelope.encrypt(PLAIN, PHONE, tenant=NEIGHBOUR, row=1)
        case "another table":
            envelope.encrypt(PLAIN, Field("app.orders", "phone"), **AT)
        case "the lookup key":
            envelope.encrypt_deterministic(PLAIN, PHONE, tenant=ACME)
        case "another generation":
            envelope.keyring._create(ACME, PHONE.context, Purpose.DATA, 2)
    original = dict(bench.rows)
    tried = 0
    for chosen, rows in _swaps(bench.store, 1, 2):
        bench.store.rows = rows
        cold = bench.other()
        # the whole row but its id under that id is another key; the row under the other id is no row for this value
        seen = Refusal.of(cold.decrypt, value, PHONE, **AT)
        assert seen == the_one_refusal(PHONE), chosen
        tried += 1
    assert tried >= 31
    bench.store.rows = original
    assert bench.other().decrypt(value, PHONE, **AT) == PLAIN


def test_a_tampered_keyring_row_of_another_key_does_not_stop_a_page(bench):
    value = bench.envelope.encrypt(PLAIN, PHONE, **AT)
    bench.envelope.keyring._create(ACME, PHONE.context, Purpose.DATA, 2)
    newer = bench.other().encrypt(PLAIN, PHONE, **AT)
    assert newer[2:6] != value[2:6]
    bench.rows[2] = replace(bench.rows[2], commitment=bytes(32))
    seen = Refusal.of(bench.other().decrypt_many, [value, newer], PHONE, tenant=ACME, rows=[1, 1])
    assert seen == the_one_refusal(PHONE)
    assert bench.other().decrypt_many([value, value], PHONE, tenant=ACME, rows=[1, 1]) == [PLAIN, PLAIN]


@pytest.fixture
def keyring_table(database):
    with connect(database.conninfo) as admin:
        own.install(admin)
        yield admin


SWAPPED = {
    "wrapped": "wrapped = theirs.wrapped",
    "wrapped and commitment": "wrapped = theirs.wrapped, commitment = theirs.commitment",
    "all key material": "wrapped = theirs.wrapped, commitment = theirs.commitment, salt = theirs.salt",
}
_SWAP = """
UPDATE dbsec.keyring AS mine SET {} FROM dbsec.keyring AS theirs
 WHERE mine.tenant = 'acme' AND theirs.tenant = 'globex'
"""
_EXCHANGE_IDS = """
CREATE TEMPORARY TABLE swapped AS SELECT * FROM dbsec.keyring;
DELETE FROM dbsec.keyring;
INSERT INTO dbsec.keyring OVERRIDING SYSTEM VALUE SELECT 3 - id, tenant, context, purpose, generation, state, wrapped,
       kek, kek_version, commitment, salt, used, created_at, retired_at FROM swapped
"""
_EXCHANGE_TENANTS = """
UPDATE dbsec.keyring SET generation = 7;
UPDATE dbsec.keyring SET tenant = CASE tenant WHEN 'acme' THEN 'x' ELSE 'acme' END WHERE true;
UPDATE dbsec.keyring SET tenant = 'globex' WHERE tenant = 'x';
UPDATE dbsec.keyring SET generation = 1
"""


@pytest.mark.parametrize("how", [*SWAPPED, "ids", "tenants", "context", "generation", "deleted"])
def test_a_keyring_that_was_tampered_with_in_the_database_opens_nothing(tmp_path, database, keyring_table, how):
    store = PostgresKeyStore(lambda: connect(database.conninfo))
    bench = Bench(tmp_path, store=store)
    ours = bench.envelope.encrypt(PLAIN, PHONE, **AT)
    theirs = bench.envelope.encrypt(PLAIN, PHONE, tenant=NEIGHBOUR, row=1)
    match how:
        case "ids":
            statement = _EXCHANGE_IDS
        case "tenants":
            statement = "ALTER TABLE dbsec.keyring DROP CONSTRAINT keyring_tenant_context_purpose_generation_key;"
            statement += "DROP INDEX dbsec.keyring_active_key;" + _EXCHANGE_TENANTS
        case "context":
            statement = "UPDATE dbsec.keyring SET context = 'app.orders'"
        case "generation":
            statement = "UPDATE dbsec.keyring SET generation = generation + 1"
        case "deleted":
            statement = "DELETE FROM dbsec.keyring"
        case _:
            statement = _SWAP.format(SWAPPED[how])
    keyring_table.execute(statement)
    assert Refusal.of(bench.other().decrypt, ours, PHONE, **AT) == the_one_refusal(PHONE)
    if how not in SWAPPED:
        assert Refusal.of(bench.other().decrypt, theirs, PHONE, tenant=NEIGHBOUR, row=1) == the_one_refusal(PHONE)
    place = Field("app.orders", "phone") if how == "context" else PHONE
    if how not in ("ids", "deleted"):
        with pytest.raises((KmsRefused, KeyMissing)):
            bench.other().encrypt(PLAIN, place, **AT)


# --- one ciphertext, two keys


def _dek(bench, key_id):
    """Unwrap a DEK as somebody who has the KMS would."""
    row = bench.rows[key_id]
    return Dek(bench.kms.unwrap(row.wrapped, row.aad), row.salt)


def _subkey(dek, place=PHONE):
    return dek.subkey(label(b"dbsec/1/aead", ACME, place))


def test_a_ciphertext_of_two_keys_opens_under_the_one_that_was_committed_to(bench, tmp_path):
    """Somebody may wrap (not: change the commitment) and give one row's value two meanings."""
    bench.envelope.encrypt(PLAIN, PHONE, **AT)
    row = bench.rows[1]
    second = bytearray(secrets.token_bytes(32))
    wrapped = bench.kms.wrap(second, row.aad)
    one, other = _subkey(_dek(bench, 1)), _subkey(Dek(second, row.salt))
    header, nonce = header_of(Algorithm.AES_256_GCM, 1), secrets.token_bytes(NONCE_BYTES)
    aad = aad_prefix(ACME, PHONE, header) + row_part(1)
    body = two_keys.made(nonce, (one, aad), (other, aad))
    meanings = {AESGCM(key).decrypt(nonce, body, aad) for key in (one, other)}
    assert len(meanings) == 2, "the ciphertext is accepted by both keys"

    value = header + nonce + body
    assert bench.other().decrypt(value, PHONE, **AT) == AESGCM(one).decrypt(nonce, body, aad)
    bench.rows[1] = replace(row, wrapped=wrapped)
    assert Refusal.of(bench.other().decrypt, value, PHONE, **AT) == the_one_refusal(PHONE)
    _never_encrypts(bench.other())


def test_an_inline_ciphertext_of_two_keys_opens_under_neither_but_the_committed(bench):
    deks = [bytearray(secrets.token_bytes(32)) for _ in range(2)]
    aad = {"dbsec": "inline/1", "tenant": ACME, "context": PHONE.context, "column": PHONE.column}
    wrapped = [bench.kms.wrap(dek, aad) for dek in deks]
    made = [Dek(dek, bytes(32)) for dek in deks]
    keys = [_subkey(dek) for dek in made]
    headers = [inline_header(each, made[0].commitment()) for each in wrapped]
    nonce = secrets.token_bytes(NONCE_BYTES)
    bound = [aad_prefix(ACME, PHONE, header) + row_part(1) for header in headers]
    body = two_keys.made(nonce, (keys[0], bound[0]), (keys[1], bound[1]))
    assert all(AESGCM(key).decrypt(nonce, body, each) for key, each in zip(keys, bound, strict=True))
    assert bench.envelope.decrypt(headers[0] + nonce + body, PHONE, **AT)
    assert Refusal.of(bench.envelope.decrypt, headers[1] + nonce + body, PHONE, **AT) == the_one_refusal(PHONE)


def test_a_kek_file_of_another_deployment_is_another_kek(tmp_path, bench):
    value = bench.envelope.encrypt(PLAIN, EMAIL, **AT)
    other = Envelope(Keyring(bench.store, KekFile(tmp_path, "other").open()))
    assert Refusal.of(other.decrypt, value, EMAIL, **AT) == the_one_refusal(EMAIL)
