"""What goes into an envelope comes out of it: singly, in bulk and async, with the KMS there and with it away."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from hypothesis import given
from hypothesis import strategies as st
from tests.clocks import Hands
from tests.envelopes import ACME, EMAIL, PHONE, Bench

from dbsec.crypto import (
    UNBOUND,
    BlindIndex,
    DecryptionFailed,
    KeyState,
    ModeRefused,
    Profile,
    Unbound,
    lookup,
)
from dbsec.kms import KmsUnavailable

VALUES = st.binary(max_size=100)
PARTS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.uuids(), st.text(st.characters(codec="utf-8")), st.binary())
ROWS = st.one_of(st.just(UNBOUND), PARTS, st.lists(PARTS, min_size=1, max_size=3).map(tuple))
VERSIONS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
BATCHES = st.lists(st.tuples(VALUES, ROWS, VERSIONS), max_size=5)
TENANTS = st.sampled_from(["", ACME, "globex", "日本"])
KEPT = timedelta(minutes=5)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("kek"))


@given(value=VALUES, tenant=TENANTS, row=ROWS, version=VERSIONS)
def test_round_trip(bench, value, tenant, row, version):
    place = {"tenant": tenant, "row": row, "version": version}
    blob = bench.envelope.encrypt(value, PHONE, **place)
    assert len(blob) == len(value) + 34
    for reader in (bench.envelope, bench.other()):
        assert reader.decrypt(blob, PHONE, **place) == value
        assert reader.decrypt(memoryview(blob), PHONE, **place) == value


@given(value=VALUES, tenant=TENANTS, row=ROWS, version=VERSIONS)
def test_inline_round_trip(bench, value, tenant, row, version):
    place = {"tenant": tenant, "row": row, "version": version}
    blob = bench.envelope.encrypt_inline(value, PHONE, **place)
    assert bench.envelope.decrypt(blob, PHONE, **place) == value


@given(value=VALUES, tenant=TENANTS)
def test_deterministic_round_trip(bench, value, tenant):
    blob = bench.envelope.encrypt_deterministic(value, EMAIL, tenant=tenant)
    assert len(blob) == len(value) + 22
    assert blob == bench.other().encrypt_deterministic(value, EMAIL, tenant=tenant)
    assert bench.other().decrypt(blob, EMAIL, tenant=tenant, row=UNBOUND) == value


@given(batch=BATCHES, tenant=TENANTS)
def test_bulk_and_single_read_each_other(bench, batch, tenant):
    values, rows, versions = ([one[n] for one in batch] for n in range(3))
    ours = bench.envelope
    many = ours.encrypt_many(values, PHONE, tenant=tenant, rows=rows, versions=versions)
    assert [
        ours.decrypt(blob, PHONE, tenant=tenant, row=row, version=version)
        for blob, row, version in zip(many, rows, versions, strict=True)
    ] == values
    single = [ours.encrypt(value, PHONE, tenant=tenant, row=row, version=number) for value, row, number in batch]
    mixed = [*single, *many]
    for reader in (ours, bench.other()):
        pairs = {"rows": rows * 2, "versions": versions * 2}
        assert reader.decrypt_many(mixed, PHONE, tenant=tenant, **pairs) == values * 2


@given(batch=BATCHES.filter(bool), tenant=TENANTS)
def test_async_and_sync_read_each_other(bench, batch, tenant):
    values, rows = ([one[n] for one in batch] for n in range(2))
    cold, ours = bench.other(), bench.envelope

    async def act() -> None:
        one = await cold.aencrypt(values[0], PHONE, tenant=tenant, row=rows[0])
        assert ours.decrypt(one, PHONE, tenant=tenant, row=rows[0]) == values[0]
        assert await bench.other().adecrypt(one, PHONE, tenant=tenant, row=rows[0]) == values[0]
        many = await cold.aencrypt_many(values, PHONE, tenant=tenant, rows=rows)
        assert ours.decrypt_many(many, PHONE, tenant=tenant, rows=rows) == values
        assert await cold.adecrypt_many(many, PHONE, tenant=tenant, rows=rows) == values

    asyncio.run(act())


def test_values_of_several_keys_and_storages_are_read_in_one_batch(bench):
    ours, rows = bench.envelope, [1, 2, UNBOUND]
    batch = [
        ours.encrypt(b"by reference", PHONE, tenant=ACME, row=1),
        ours.encrypt_inline(b"inline", PHONE, tenant=ACME, row=2),
        ours.encrypt_deterministic(b"deterministic", PHONE, tenant=ACME),
    ]
    opened = bench.other().decrypt_many(batch, PHONE, tenant=ACME, rows=rows)
    assert opened == [b"by reference", b"inline", b"deterministic"]


@pytest.mark.parametrize("rows", [[], [1], [1, 2, 3]])
def test_a_batch_with_another_number_of_rows_is_refused_whole(bench, rows):
    values = [b"a", b"b"]
    blobs = bench.envelope.encrypt_many(values, PHONE, tenant=ACME, rows=[1, 2])
    with pytest.raises(Unbound):
        bench.envelope.encrypt_many(values, PHONE, tenant=ACME, rows=rows)
    with pytest.raises(Unbound):
        bench.envelope.decrypt_many(blobs, PHONE, tenant=ACME, rows=rows)


def test_one_bad_value_of_a_batch_is_no_batch(bench):
    blobs = bench.envelope.encrypt_many([b"a", b"b"], PHONE, tenant=ACME, rows=[1, 2])
    with pytest.raises(DecryptionFailed) as caught:
        bench.envelope.decrypt_many([blobs[0], blobs[1][:-1]], PHONE, tenant=ACME, rows=[1, 2])
    assert str(caught.value) == "a value of 'app.users.phone' cannot be decrypted"


def test_cached_keys_serve_while_the_kms_is_away_and_then_the_error_says_so(tmp_path):
    clock = Hands()
    bench = Bench(tmp_path, ttl=KEPT, clock=clock)
    ours = bench.envelope
    blob = ours.encrypt(b"v", PHONE, tenant=ACME, row=1)
    assert ours.decrypt(blob, PHONE, tenant=ACME, row=1) == b"v"
    index = ours.blind_index("v", PHONE, BlindIndex(), tenant=ACME)
    bench.kms.away = True
    clock.sleep(KEPT.total_seconds() - 1)
    assert ours.decrypt(blob, PHONE, tenant=ACME, row=1) == b"v"
    assert ours.decrypt(ours.encrypt(b"w", PHONE, tenant=ACME, row=1), PHONE, tenant=ACME, row=1) == b"w"
    assert ours.blind_index("v", PHONE, BlindIndex(), tenant=ACME) == index
    clock.sleep(1)
    acts = [
        lambda: ours.decrypt(blob, PHONE, tenant=ACME, row=1),
        lambda: ours.decrypt_many([blob], PHONE, tenant=ACME, rows=[1]),
        lambda: ours.encrypt(b"w", PHONE, tenant=ACME, row=1),
        lambda: ours.encrypt_inline(b"w", PHONE, tenant=ACME, row=1),
        lambda: ours.blind_index("v", PHONE, BlindIndex(), tenant=ACME),
        lambda: ours.encrypt(b"w", PHONE, tenant="a tenant without a key yet", row=1),
    ]
    for act in acts:
        with pytest.raises(KmsUnavailable):
            act()
    bench.kms.away = False
    assert ours.decrypt(blob, PHONE, tenant=ACME, row=1) == b"v"


def test_a_new_ttl_takes_no_new_lease(tmp_path):
    """Else a service that writes little would use its key up in leases that it never spends."""
    clock = Hands()
    bench = Bench(tmp_path, ttl=KEPT, clock=clock)
    for _ in range(50):
        bench.envelope.encrypt(b"v", PHONE, tenant=ACME, row=1)
        bench.envelope.encrypt(b"v", PHONE, tenant="globex", row=1)
        clock.sleep(KEPT.total_seconds())
    assert bench.kms.unwrapped == 100
    assert [row.used for row in bench.rows.values()] == [2**12] * 2


def test_what_rests_of_a_lease_does_not_outlast_its_key(tmp_path):
    clock = Hands()
    bench = Bench(tmp_path, ttl=KEPT, clock=clock)
    blob = bench.envelope.encrypt(b"v", PHONE, tenant=ACME, row=1)
    clock.sleep(KEPT.total_seconds())
    (row,) = bench.rows.values()
    bench.rows[row.id] = replace(row, state=KeyState.DESTROYED)
    with pytest.raises(DecryptionFailed):
        bench.envelope.decrypt(blob, PHONE, tenant=ACME, row=1)


def test_the_fips_profile_refuses_what_is_deterministic(tmp_path):
    bench = Bench(tmp_path, profile=Profile.FIPS)
    with pytest.raises(ModeRefused, match="FIPS"):
        bench.envelope.encrypt_deterministic(b"v", EMAIL, tenant=ACME)
    assert not bench.rows, "no key was made for it"


def test_a_blind_index_needs_no_cipher_that_fips_has_not(tmp_path, monkeypatch):
    bench = Bench(tmp_path, profile=Profile.FIPS)
    standard = Bench(tmp_path, store=bench.store, kms=bench.kms)

    def unsupported(key: bytes) -> None:
        raise UnsupportedAlgorithm("AES-SIV")

    expected = standard.envelope.blind_index("v", EMAIL, BlindIndex(), tenant=ACME)
    # hook: ok what OpenSSL's FIPS provider answers
    monkeypatch.setattr(lookup, "AESSIV", unsupported)  # hook: ok stands for an OpenSSL in FIPS mode, which lacks it
    assert bench.envelope.blind_index("v", EMAIL, BlindIndex(), tenant=ACME) == expected
    with pytest.raises(ModeRefused, match="has no AES-SIV"):
        standard.other().encrypt_deterministic(b"v", EMAIL, tenant=ACME)
