"""A tenant's files stand under the same keys as its columns: rotated with them, refused to others, gone with them."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from tests.envelopes import ACME, EMAIL, PHONE, Bench

from dbsec.crypto import DecryptionFailed, Field, KeyMissing, KeyState, Unbound
from dbsec.crypto.stream import Encryptor, StreamReader, decrypt_stream, encrypt_stream, stream_key, stream_keys
from dbsec.kms import KmsUnavailable

SCANS = Field("app.users", "scan")
HEADER = b"scans/17.pdf"
PLAIN = bytes(range(256)) * 9


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def encrypted(bench: Bench, field: Field = SCANS, tenant: str = ACME) -> bytes:
    sink = io.BytesIO()
    key = stream_key(bench.envelope.keyring, field, tenant=tenant)
    encrypt_stream(io.BytesIO(PLAIN), sink, key.key, key_id=key.key_id, header=HEADER, frame_bytes=512)
    return sink.getvalue()


def decrypted(bench: Bench, stream: bytes, field: Field = SCANS, tenant: str = ACME) -> bytes:
    sink = io.BytesIO()
    decrypt_stream(io.BytesIO(stream), sink, stream_keys(bench.envelope.keyring, field, tenant=tenant), header=HEADER)
    return sink.getvalue()


def test_a_stream_names_its_key_and_costs_a_process_one_kms_call(bench):
    stream = encrypted(bench)
    cold = bench.other()
    keys = stream_keys(cold.keyring, SCANS, tenant=ACME)
    reader = StreamReader.of_file(io.BytesIO(stream), keys, header=HEADER)
    assert reader.prelude.key_id == next(iter(bench.rows))
    assert reader.read_at(1000, 50) == PLAIN[1000:1050]
    assert bench.kms.unwrapped == 2  # once by the writer, once by a process that had nothing cached
    assert decrypted(bench, stream) == PLAIN


def test_a_rotated_key_still_reads_and_the_new_one_writes(bench):
    old = encrypted(bench)
    ring = bench.envelope.keyring
    (row,) = bench.rows.values()
    new = ring._create(row.tenant, row.context, row.purpose, row.generation + 1)
    bench.rows[row.id] = replace(row, state=KeyState.RETIRED)
    ring.forget()
    assert stream_key(ring, SCANS, tenant=ACME).key_id == new.id
    assert decrypted(bench, old) == decrypted(bench, encrypted(bench)) == PLAIN


def test_no_two_columns_tenants_or_purposes_share_a_subkey(bench):
    ring = bench.envelope.keyring
    keys = [stream_key(ring, field, tenant=tenant).key for field in (SCANS, PHONE, EMAIL) for tenant in (ACME, "other")]
    keys += [ring.subkey(ACME, SCANS, purpose)[1] for purpose in (b"dbsec/1/aead", b"dbsec/1/stream")]
    assert len(set(keys)) == len(keys) == 8
    assert stream_key(ring, SCANS, tenant=ACME).key == keys[0]


def refusal(bench: Bench, stream: bytes, **place) -> DecryptionFailed:
    with pytest.raises(DecryptionFailed) as caught:
        decrypted(bench, stream, **place)
    return caught.value


def test_another_tenant_column_or_key_is_refused_with_one_message(bench):
    stream = encrypted(bench)
    encrypted(bench, tenant="other")
    encrypted(bench, Field("app.orders", "scan"))
    unknown = Encryptor(bytes(32), header=HEADER, key_id=4711)
    without = Encryptor(bytes(32), header=HEADER)
    foreign = stream[:12] + (2).to_bytes(4, "big") + stream[16:]
    refusals = [
        refusal(bench, stream, tenant="other"),
        refusal(bench, stream, tenant="nobody"),
        refusal(bench, stream, field=PHONE),
        refusal(bench, stream, field=Field("app.orders", "scan")),
        refusal(bench, unknown.update(b"") + unknown.finalize()),
        refusal(bench, without.finalize()),
        refusal(bench, foreign),
        refusal(bench, stream[:-1]),
    ]
    assert {(type(one), str(one)) for one in refusals} == {
        (DecryptionFailed, "a value of 'stream' cannot be decrypted"),
    }
    assert [one.key_id for one in refusals] == [1, 1, 1, 1, 4711, 0, 2, 1]


def test_a_destroyed_key_opens_nothing_and_encrypts_nothing(bench):
    stream = encrypted(bench)
    (row,) = bench.rows.values()
    bench.rows[row.id] = replace(row, state=KeyState.DESTROYED, wrapped=b"")
    bench.envelope.keyring.forget()
    refusal(bench, stream)
    with pytest.raises(KeyMissing):
        encrypted(bench)


def test_a_kms_that_is_away_is_no_refusal(bench):
    stream = encrypted(bench)
    bench.envelope.keyring.forget()
    bench.kms.away = True
    for act in (lambda: decrypted(bench, stream), lambda: encrypted(bench)):
        with pytest.raises(KmsUnavailable):
            act()


def test_a_missing_tenant_is_said(bench):
    with pytest.raises(Unbound):
        encrypted(bench, tenant=None)
