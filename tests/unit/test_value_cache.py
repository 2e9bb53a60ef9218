"""Decrypted values that are kept: only where asked for, only inline ones, never for another place, never for long."""

from __future__ import annotations

import asyncio
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest
from tests.clocks import Hands
from tests.forks import in_a_child

from dbsec import files
from dbsec.crypto import DecryptionFailed, Envelope, Field, Keyring, MemoryKeyStore, Unbound
from dbsec.crypto.value_cache import ValueCache
from dbsec.errors import UsageError
from dbsec.kms import open_kms
from dbsec.kms.kek_file import Cost
from dbsec.kms.schemes.file_kek import FileKekAdmin
from dbsec.secret import Secret

PHONE = Field("app.users", "phone")
PLAIN = b"+49 30 1234567"


class Bed:
    """An envelope over a real KEK file. A KEK that is disabled shows who still answers: the cache."""

    def __init__(self, folder, **cache):
        files.write_atomic(folder / "p", "a passphrase of the tests")
        self.admin = FileKekAdmin(folder / "k", lambda: Secret("a passphrase of the tests"), cost=Cost(2**14))
        self.admin.create()
        kms = open_kms(f"file-kek:{folder}/k?passphrase=file:{folder}/p", environ={})
        self.clock = Hands()
        self.cache = ValueCache(clock=self.clock, **cache)
        self.keyring = Keyring(MemoryKeyStore(), kms)
        self.plain = Envelope(self.keyring)
        self.envelope = Envelope(self.keyring, value_cache=self.cache)

    def inline(self, row=1, value=PLAIN, tenant="t", field=PHONE, version=None):
        return self.plain.encrypt_inline(value, field, tenant=tenant, row=row, version=version)

    def read(self, blob, row=1, tenant="t", field=PHONE, version=None):
        return self.envelope.decrypt(blob, field, tenant=tenant, row=row, version=version)


@pytest.fixture
def bed(tmp_path):
    return Bed(tmp_path, ttl=timedelta(seconds=30))


def test_it_is_off_unless_given(bed):
    blob = bed.inline()
    assert bed.plain.decrypt(blob, PHONE, tenant="t", row=1) == PLAIN
    bed.admin.disable()
    with pytest.raises(DecryptionFailed):
        bed.plain.decrypt(blob, PHONE, tenant="t", row=1)


def test_a_kept_value_asks_no_kms_until_its_time_is_over(bed):
    blob = bed.inline()
    assert bed.read(blob) == PLAIN
    bed.admin.disable()
    bed.clock.seconds = 29.9
    assert bed.read(blob) == PLAIN
    assert bed.read(memoryview(blob)) == PLAIN
    assert asyncio.run(bed.envelope.adecrypt(blob, PHONE, tenant="t", row=1)) == PLAIN
    assert (bed.cache.hits, bed.cache.misses) == (3, 1)
    # being read does not make it live longer
    bed.clock.seconds = 30
    with pytest.raises(DecryptionFailed):
        bed.read(blob)
    assert len(bed.cache) == 0


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"row": 2},
        {"row": "1"},
        {"row": UUID(int=1)},
        {"row": (1, 1)},
        {"tenant": "u"},
        {"tenant": ""},
        {"field": Field("app.users", "fax")},
        {"field": Field("app.staff", "phone")},
        {"version": 1},
    ],
    ids=str,
)
def test_what_is_kept_is_not_read_from_another_place(bed, elsewhere):
    """The same bytes in another row are refused after they were read in their own."""
    blob = bed.inline()
    assert bed.read(blob) == PLAIN
    with pytest.raises(DecryptionFailed):
        bed.read(blob, **elsewhere)
    assert bed.read(blob) == PLAIN
    assert len(bed.cache) == 1


def test_a_value_that_was_altered_is_another_one(bed):
    blob = bed.inline()
    assert bed.read(blob) == PLAIN
    for at in range(len(blob)):
        altered = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
        with pytest.raises(DecryptionFailed):
            bed.read(altered)
    assert len(bed.cache) == 1
    with pytest.raises(Unbound):
        bed.read(blob, row=None)


def test_values_by_reference_are_not_kept(bed):
    blob = bed.envelope.encrypt(PLAIN, PHONE, tenant="t", row=1)
    found = bed.envelope.encrypt_deterministic(PLAIN, PHONE, tenant="t")
    for value in (blob, found):
        assert bed.read(value) == PLAIN
    assert len(bed.cache) == bed.cache.misses == 0
    many = [bed.inline(row) for row in range(5)]
    assert bed.envelope.decrypt_many(many, PHONE, tenant="t", rows=range(5)) == [PLAIN] * 5
    assert len(bed.cache) == 5


def test_it_is_bounded_by_values_and_by_bytes(tmp_path):
    bed = Bed(tmp_path, max_values=10)
    for row in range(25):
        assert bed.read(bed.inline(row), row) == PLAIN
    assert len(bed.cache) == 10
    small = ValueCache(max_bytes=10_000)
    for n in range(100):
        assert small.of((n,), 10, lambda: bytes(700)) == bytes(700)
    assert 5 < len(small) < 14
    assert small.of(("large",), 10, lambda: bytes(20_000)) == bytes(20_000)
    assert not small.holds(("large",))
    assert len(small) > 5
    for wrong in ({"ttl": timedelta(0)}, {"max_values": 0}, {"max_bytes": 0}):
        with pytest.raises(UsageError):
            ValueCache(**wrong)


def test_what_is_over_leaves_memory_with_the_next_use(bed):
    for row in range(5):
        bed.read(bed.inline(row), row)
    bed.clock.seconds = 31
    bed.read(bed.inline(9), 9)
    assert len(bed.cache) == 1


def test_forgetting_the_keys_forgets_the_values(bed):
    blob = bed.inline()
    bed.read(blob)
    bed.keyring.forget()
    assert len(bed.cache) == 0
    bed.admin.disable()
    with pytest.raises(DecryptionFailed):
        bed.read(blob)


def test_a_value_on_its_way_in_is_not_kept_where_all_was_forgotten_meanwhile(bed):
    def decrypt():
        bed.keyring.forget()
        return PLAIN

    assert bed.cache.of(("key",), 3, decrypt) == PLAIN
    assert len(bed.cache) == 0


def test_a_failure_is_not_kept():
    cache = ValueCache()
    for _ in range(2):
        with pytest.raises(DecryptionFailed):
            cache.of(("key",), 3, _fails)
    assert (len(cache), cache.misses) == (0, 2)


def _fails():
    raise DecryptionFailed("app.users.phone")


def test_a_child_begins_without_values_even_where_a_thread_held_the_lock(bed):
    blob = bed.inline()
    bed.read(blob)
    held, done = threading.Event(), threading.Event()

    def hold():
        with bed.cache._shelf.lock:  # what a thread in the midst of a reading has
            held.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(20)

    def child():
        assert len(bed.cache) == 0
        assert bed.read(blob) == PLAIN
        assert len(bed.cache) == 1

    assert in_a_child(child) == 0
    done.set()
    thread.join()
    assert len(bed.cache) == 1


def test_threads_get_their_own_values(tmp_path):
    bed = Bed(tmp_path, max_values=20)
    blobs = {row: bed.inline(row, b"%d" % row) for row in range(60)}

    def work(seed):
        for n in range(300):
            row = (seed * 31 + n * 7) % 60
            assert bed.read(blobs[row], row) == b"%d" % row
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert len(bed.cache) <= 20
    assert bed.cache._shelf.bytes == sum(size for _, _, size in bed.cache._shelf.values.values())
    assert bed.cache.hits > 0


def test_no_plaintext_leaves_it_by_the_side_doors(bed):
    bed.read(bed.inline())
    assert repr(bed.cache) == "<value cache of 1 values>"
    with pytest.raises(TypeError):
        pickle.dumps(bed.cache)
