"""A value that was altered or moved opens nowhere, and every refusal looks like every other."""

from __future__ import annotations

import asyncio
import importlib
import itertools
from dataclasses import replace
from uuid import UUID

import pytest
from tests.envelopes import ACME, EMAIL, PHONE, Bench, Refusal, bits, flipped, the_one_refusal

from dbsec.crypto import UNBOUND, BlindIndex, Field, KeyState, Purpose
from dbsec.crypto.format import Algorithm
from dbsec.kms import open_admin, open_kms
from dbsec.kms.uri import of_tenant

PLAIN = b"+4915112345678"
ROW = 42
NEIGHBOUR = "globex"


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.fixture
def envelope(bench):
    return bench.envelope


def _values(envelope):
    return {
        "by reference": envelope.encrypt(PLAIN, PHONE, tenant=ACME, row=ROW),
        "deterministic": envelope.encrypt_deterministic(PLAIN, PHONE, tenant=ACME),
        "inline": envelope.encrypt_inline(PLAIN, PHONE, tenant=ACME, row=ROW),
    }


def _refusals(envelope, values, field=PHONE, *, tenant=ACME, row=ROW, version=None):
    """Return what is seen of each refusal, on each way into the envelope."""
    told = {"tenant": tenant, "row": row, "version": version}
    many = {"tenant": tenant, "rows": [row], "versions": [version]}
    return {
        seen
        for value in values
        for seen in (
            Refusal.of(envelope.decrypt, value, field, **told),
            Refusal.of(envelope.decrypt_many, [value], field, **many),
        )
    }


@pytest.mark.parametrize("storage", ["by reference", "deterministic", "inline"])
def test_no_bit_of_a_value_can_be_flipped(envelope, storage):
    value = _values(envelope)[storage]
    assert envelope.decrypt(value, PHONE, tenant=ACME, row=ROW) == PLAIN
    altered = [flipped(value, at, mask) for at, mask in bits(len(value))]
    assert _refusals(envelope, altered) == {the_one_refusal(PHONE)}


@pytest.mark.parametrize("scheme", ["pkcs11", "vault_transit"])
def test_no_bit_of_an_inline_value_can_be_flipped_under_a_kms_of_its_own(scheme, request, tmp_path):
    provider = importlib.import_module(f"tests.kms_providers.{scheme}").provider(request, tmp_path)
    name = f"flips-{scheme.replace('_', '-')}"
    uri = of_tenant(provider.template, name)
    open_admin(provider.template, environ={}, tenant=name).create()
    envelope = Bench(tmp_path, kms=open_kms(uri, environ={})).envelope
    value = envelope.encrypt_inline(b"x", PHONE, tenant=ACME, row=ROW)
    assert envelope.decrypt(value, PHONE, tenant=ACME, row=ROW) == b"x"
    told = {Refusal.of(envelope.decrypt, altered, PHONE, tenant=ACME, row=ROW) for altered in _flips(value)}
    assert told == {the_one_refusal(PHONE)}


def _flips(value):
    return (flipped(value, at, mask) for at, mask in bits(len(value)))


@pytest.mark.parametrize("storage", ["by reference", "deterministic", "inline"])
def test_a_value_can_be_neither_cut_nor_continued(envelope, storage):
    value = _values(envelope)[storage]
    shorter = [value[:end] for end in range(len(value))] + [value[start:] for start in range(1, len(value) + 1)]
    longer = [value + b"\0" * more for more in range(1, 34)] + [value + value, b"\0" + value]
    without_a_byte = [value[:at] + value[at + 1 :] for at in range(len(value))]
    assert _refusals(envelope, [*shorter, *longer, *without_a_byte]) == {the_one_refusal(PHONE)}


ELSEWHERE = {
    "the row before": 41,
    "the row after": 43,
    "its negative": -42,
    "the same digits as text": "42",
    "the same digits as bytes": b"42",
    "the number as a uuid": UUID(int=42),
    "the number as eight bytes": (42).to_bytes(8, "big"),
    "a composite key": (42, 42),
    "a composite key with nothing": (42, ""),
    "no row": UNBOUND,
    "empty text": "",
}


@pytest.mark.parametrize("storage", ["by reference", "inline"])
@pytest.mark.parametrize("row", ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_value_of_another_row_is_refused(envelope, storage, row):
    value = _values(envelope)[storage]
    assert _refusals(envelope, [value], row=row) == {the_one_refusal(PHONE)}


def test_no_two_ids_are_bound_alike(envelope):
    rows = [1, -1, 2**63 - 1, -(2**63), "", "1", "12", b"", b"1", UUID(int=1), ("1", "2"), ("", "12"), ("12", "")]
    rows += [(1, 2), (2, 1), ("1", 2), (b"1", "2"), (1, 1, 1), UNBOUND]
    for mine, theirs in itertools.permutations(rows, 2):
        value = envelope.encrypt(PLAIN, PHONE, tenant=ACME, row=mine)
        assert _refusals(envelope, [value], row=theirs) == {the_one_refusal(PHONE)}


@pytest.mark.parametrize("storage", ["by reference", "deterministic", "inline"])
def test_a_value_of_another_column_table_or_tenant_is_refused(envelope, storage):
    places = [
        (Field("app.users", "email"), ACME),
        (Field("app.orders", "phone"), ACME),
        (Field("app", "users.phone"), ACME),  # str() of both is the same
        (PHONE, NEIGHBOUR),
        (PHONE, ""),
        (PHONE, "acme "),
    ]
    for field, tenant in places:  # each has keys of its own, and the caches are warm
        warm = {"tenant": tenant, "row": ROW}
        assert envelope.decrypt(envelope.encrypt(PLAIN, field, **warm), field, **warm) == PLAIN
        envelope.encrypt_deterministic(PLAIN, field, tenant=tenant)
    value = _values(envelope)[storage]
    for field, tenant in places:
        assert _refusals(envelope, [value], field, tenant=tenant) == {the_one_refusal(field)}


def test_a_value_is_refused_under_every_other_key_id(bench):
    envelope = bench.envelope
    value = _values(envelope)["by reference"]
    envelope.encrypt(PLAIN, PHONE, tenant=NEIGHBOUR, row=ROW)
    envelope.encrypt(PLAIN, Field("app.orders", "phone"), tenant=ACME, row=ROW)
    successor = envelope.keyring._create(ACME, PHONE.context, Purpose.DATA, 2)
    destroyed = envelope.keyring._create(ACME, PHONE.context, Purpose.DATA, 3)
    bench.rows[destroyed.id] = replace(destroyed, state=KeyState.DESTROYED)
    retired = replace(bench.rows[1], state=KeyState.RETIRED)
    bench.rows[1] = retired
    newer = bench.other().encrypt(PLAIN, PHONE, tenant=ACME, row=ROW)
    assert newer[2:6] == successor.id.to_bytes(4, "big")
    for old in (value, newer):
        mine = int.from_bytes(old[2:6], "big")
        others = [key_id for key_id in (*bench.rows, 0, 9999, 2**31, 2**32 - 1) if key_id != mine]
        renamed = [old[:2] + key_id.to_bytes(4, "big") + old[6:] for key_id in others]
        assert len(renamed) >= 9
        assert _refusals(bench.other(), renamed) == {the_one_refusal(PHONE)}
        assert _refusals(envelope, renamed) == {the_one_refusal(PHONE)}
        assert envelope.decrypt(old, PHONE, tenant=ACME, row=ROW) == PLAIN


@pytest.mark.parametrize("storage", ["by reference", "deterministic", "inline"])
def test_no_other_version_or_algorithm_is_accepted(envelope, storage):
    values = _values(envelope)
    value = values[storage]
    relabelled = [value[:1] + bytes([second]) + value[2:] for second in range(256) if second != value[1]]
    first = [bytes([magic]) + value[1:] for magic in range(256) if magic != value[0]]
    assert _refusals(envelope, relabelled + first) == {the_one_refusal(PHONE)}


def test_a_value_that_is_dressed_as_another_algorithm_is_refused(bench):
    """The key id of the other storage's key too: the label alone would fail for want of a key."""
    envelope = bench.envelope
    values = _values(envelope)
    body = {name: value[6:] for name, value in values.items()}
    lookup = values["deterministic"][2:6]
    data = values["by reference"][2:6]
    assert lookup != data
    inline = bytes([0xD5, 0x10 | Algorithm.AES_256_GCM_INLINE])
    row = bench.rows[1]
    dressed = [
        bytes([0xD5, 0x12]) + lookup + body["by reference"],
        bytes([0xD5, 0x12]) + data + body["by reference"],
        bytes([0xD5, 0x11]) + data + body["deterministic"],
        bytes([0xD5, 0x11]) + lookup + body["deterministic"],
        bytes([0xD5, 0x11]) + lookup + body["by reference"],
        bytes([0xD5, 0x12]) + data + body["deterministic"],
        # by reference as inline, with the very DEK and commitment of its keyring row
        inline + len(row.wrapped).to_bytes(2, "big") + row.wrapped + row.commitment + body["by reference"],
        # inline as by reference
        values["by reference"][:6] + values["inline"][4 + 65 + 32 :],
    ]
    assert _refusals(envelope, dressed) == {the_one_refusal(PHONE)}


@pytest.mark.parametrize("inline", [False, True], ids=["by reference", "inline"])
def test_an_older_value_of_the_same_row_is_refused_where_its_version_is_bound(envelope, inline):
    encrypt = envelope.encrypt_inline if inline else envelope.encrypt
    old = encrypt(b"1000 EUR", PHONE, tenant=ACME, row=ROW, version=7)
    new = encrypt(b"0 EUR", PHONE, tenant=ACME, row=ROW, version=8)
    assert envelope.decrypt(new, PHONE, tenant=ACME, row=ROW, version=8) == b"0 EUR"
    for version in (8, 6, -7, 0, None):
        assert _refusals(envelope, [old], version=version) == {the_one_refusal(PHONE)}
    # a version is no part of an id, though it stands where one could stand
    assert _refusals(envelope, [old], row=(ROW, 7)) == {the_one_refusal(PHONE)}


def test_without_a_version_an_older_value_of_the_same_row_is_accepted(envelope):
    """The limit of row binding, as docs/envelope_crypto.md states it."""
    old = envelope.encrypt(b"1000 EUR", PHONE, tenant=ACME, row=ROW)
    envelope.encrypt(b"0 EUR", PHONE, tenant=ACME, row=ROW)
    assert envelope.decrypt(old, PHONE, tenant=ACME, row=ROW) == b"1000 EUR"


def test_values_of_two_rows_cannot_be_exchanged_within_a_batch(envelope):
    blobs = envelope.encrypt_many([b"a", b"b", b"c"], PHONE, tenant=ACME, rows=[1, 2, 3])
    assert envelope.decrypt_many(blobs, PHONE, tenant=ACME, rows=[1, 2, 3]) == [b"a", b"b", b"c"]
    for order in itertools.permutations(range(3)):
        swapped = [blobs[at] for at in order]
        if swapped == blobs:
            continue
        seen = Refusal.of(envelope.decrypt_many, swapped, PHONE, tenant=ACME, rows=[1, 2, 3])
        assert seen == the_one_refusal(PHONE)
    mixed = [blobs[0], envelope.encrypt_inline(b"b", PHONE, tenant=ACME, row=2), flipped(blobs[2], 34, 1)]
    seen = Refusal.of(envelope.decrypt_many, mixed, PHONE, tenant=ACME, rows=[1, 2, 3])
    assert seen == the_one_refusal(PHONE)


def test_async_refuses_alike(envelope):
    value = flipped(_values(envelope)["by reference"], 20, 4)
    told = {"tenant": ACME, "row": ROW}
    one = Refusal.of(asyncio.run, envelope.adecrypt(value, PHONE, **told))
    many = Refusal.of(asyncio.run, envelope.adecrypt_many([value], PHONE, tenant=ACME, rows=[ROW]))
    assert {one, many} == {the_one_refusal(PHONE)}


def test_a_blind_index_is_no_value_and_tells_no_tenants_apart_together(envelope):
    how = BlindIndex()
    mine = envelope.blind_index("+49151", PHONE, how, tenant=ACME)
    assert isinstance(mine, bytes)
    assert mine == envelope.blind_index("+49151", PHONE, how, tenant=ACME)
    assert mine != envelope.blind_index("+49151", PHONE, how, tenant=NEIGHBOUR)
    assert mine != envelope.blind_index("+49151", EMAIL, how, tenant=ACME)
    assert mine != envelope.blind_index("+49151", PHONE, BlindIndex(generation=2), tenant=ACME)
    assert _refusals(envelope, [mine]) == {the_one_refusal(PHONE)}


def test_an_equal_value_has_another_ciphertext_in_every_row_unless_it_is_deterministic(envelope):
    told = {"field": PHONE, "tenant": ACME}
    assert len({envelope.encrypt(PLAIN, row=1, **told) for _ in range(100)}) == 100
    assert len({envelope.encrypt_deterministic(PLAIN, **told) for _ in range(100)}) == 1
