"""The cache of keys when threads meet in it, when it is full, when time runs out, and when a process forks."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.clocks import Hands
from tests.envelopes import ACME, EMAIL, PHONE, Bench
from tests.forks import in_a_child

from dbsec.crypto import Field, KeyExhausted, KeyMissing, KeyState, ModeRefused, Unbound
from dbsec.crypto.column import Column
from dbsec.crypto.store import MOST_INVOCATIONS
from dbsec.errors import UsageError
from dbsec.kms import KmsUnavailable

TTL = timedelta(minutes=5)


@pytest.fixture
def clock():
    return Hands()


@pytest.fixture
def bench(tmp_path, clock):
    return Bench(tmp_path, clock=clock, ttl=TTL)


def _rotate(bench, key_id=1):
    """Retire a key and add its successor, as another process does."""
    old = bench.rows[key_id]
    other = bench.other()
    new = other.keyring._create(old.tenant, old.context, old.purpose, old.generation + 1)
    bench.rows[key_id] = replace(old, state=KeyState.RETIRED)
    return new.id


def test_a_key_that_two_threads_unwrap_at_once_is_dropped_with_all_that_was_made_from_it(bench):
    value = bench.envelope.encrypt(b"x", PHONE, tenant=ACME, row=1)
    cold = bench.other()
    with ThreadPoolExecutor(1) as pool:
        with bench.kms.held(1):
            reading = pool.submit(cold.decrypt, value, PHONE, tenant=ACME, row=1)
            assert bench.kms.waiting.acquire(timeout=20)
            cold.encrypt(b"y", PHONE, tenant=ACME, row=2)
        assert reading.result(20) == b"x"
    writer = cold.keyring.writer(ACME, PHONE)
    new = _rotate(bench)
    assert cold.keyring.refused(writer, ACME).key_id == new


def test_what_forget_drops_does_not_come_back_with_a_key_that_was_on_its_way(bench):
    value = bench.envelope.encrypt(b"x", PHONE, tenant=ACME, row=1)
    cold = bench.other()
    with ThreadPoolExecutor(1) as pool:
        with bench.kms.held():
            reading = pool.submit(cold.decrypt, value, PHONE, tenant=ACME, row=1)
            assert bench.kms.waiting.acquire(timeout=20)
            cold.keyring.forget()
        assert reading.result(20) == b"x"
    assert (cold.keyring._keys, cold.keyring.readers) == ({}, {})


def test_a_cache_of_one_key_serves_many_tenants_in_many_threads(tmp_path):
    bench = Bench(tmp_path, max_keys=1)
    tenants = [f"t{n}" for n in range(4)]
    keyring = bench.envelope.keyring

    def work(n):
        for at in range(40):
            tenant = tenants[(n + at) % 4]
            value = bench.envelope.encrypt(tenant.encode(), PHONE, tenant=tenant, row=at)
            assert bench.envelope.decrypt(value, PHONE, tenant=tenant, row=at) == tenant.encode()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(keyring._keys) == 1
    assert len(keyring.writers) <= 1
    assert len(keyring.readers) <= 1


def test_a_key_serves_until_its_ttl_and_not_at_it(bench, clock):
    value = bench.envelope.encrypt(b"x", PHONE, tenant=ACME, row=1)
    assert bench.envelope.decrypt(value, PHONE, tenant=ACME, row=1) == b"x"
    unwrapped = bench.kms.unwrapped
    bench.kms.away = True
    clock.seconds = TTL.total_seconds() - 0.001
    assert bench.envelope.decrypt(value, PHONE, tenant=ACME, row=1) == b"x"
    assert bench.envelope.encrypt(b"y", PHONE, tenant=ACME, row=1)
    clock.seconds = TTL.total_seconds()
    for act in (
        lambda: bench.envelope.decrypt(value, PHONE, tenant=ACME, row=1),
        lambda: bench.envelope.decrypt_many([value], PHONE, tenant=ACME, rows=[1]),
        lambda: bench.envelope.encrypt(b"y", PHONE, tenant=ACME, row=1),
        lambda: bench.envelope.encrypt_many([b"y"], PHONE, tenant=ACME, rows=[1]),
    ):
        with pytest.raises(KmsUnavailable):
            act()
    bench.kms.away = False
    assert bench.envelope.decrypt(value, PHONE, tenant=ACME, row=1) == b"x"
    assert bench.kms.unwrapped == unwrapped + 1


def test_threads_at_the_ttl_all_get_an_answer(bench, clock):
    value = bench.envelope.encrypt(b"x", PHONE, tenant=ACME, row=1)
    go = threading.Barrier(8)

    def work(_):
        go.wait(20)
        return [bench.envelope.decrypt(value, PHONE, tenant=ACME, row=1) for _ in range(200)]

    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(work, n) for n in range(8)]
        for _ in range(50):
            clock.sleep(TTL.total_seconds())
        assert {answer for one in done for answer in one.result(60)} == {b"x"}


def test_what_expired_leaves_memory_when_the_next_key_comes(bench, clock):
    place = Field("app.users", "phone")
    bench.envelope.encrypt(b"x", place, tenant="left", row=1)
    clock.sleep(TTL.total_seconds())
    bench.envelope.encrypt(b"x", place, tenant="came", row=1)
    assert set(bench.envelope.keyring._keys) == {2}
    assert set(bench.envelope.keyring.writers) == {("came", place)}
    gc.collect()
    kept = [one for one in gc.get_objects() if isinstance(one, Column) and one.field is place]
    assert [one.key_id for one in kept] == [2]


def test_a_key_that_is_used_outlives_those_that_are_not(tmp_path):
    bench = Bench(tmp_path, max_keys=3)
    values = {name: bench.envelope.encrypt(b"x", PHONE, tenant=name, row=1) for name in "abcd"}
    bench.envelope.encrypt(b"x", PHONE, tenant="b", row=1)  # since d came, and looked at all, this one alone was used
    bench.envelope.encrypt(b"x", PHONE, tenant="e", row=1)
    assert {tenant for tenant, _ in bench.envelope.keyring.writers} == {"b", "d", "e"}
    for name, value in values.items():
        assert bench.envelope.decrypt(value, PHONE, tenant=name, row=1) == b"x"


def test_max_uses_asks_the_kms_again_after_that_many(tmp_path):
    bench = Bench(tmp_path, max_uses=4096)
    bench.envelope.encrypt_many([b"x"] * 4096, PHONE, tenant=ACME, rows=range(4096))
    before = bench.kms.unwrapped
    bench.envelope.encrypt(b"x", PHONE, tenant=ACME, row=1)  # the lease that comes after: the last one with this key
    bench.envelope.encrypt(b"x", PHONE, tenant=ACME, row=1)
    assert bench.kms.unwrapped == before + 1


def test_a_small_max_uses_neither_burns_a_lease_nor_a_call_for_each_value(tmp_path):
    bench = Bench(tmp_path, max_uses=1)
    for row in range(1000):
        bench.envelope.encrypt(b"x", PHONE, tenant=ACME, row=row)
    assert bench.kms.unwrapped == 1
    assert bench.rows[1].used == 4096


def test_a_fork_while_locks_are_held_leaves_the_child_able(bench):
    value = bench.envelope.encrypt(b"x", PHONE, tenant=ACME, row=1)
    cold = bench.other()

    def child():
        signal.alarm(20)
        assert cold.decrypt(value, PHONE, tenant=ACME, row=1) == b"x"
        assert cold.encrypt(b"y", PHONE, tenant=ACME, row=1)

    with ThreadPoolExecutor(1) as pool, cold.keyring._guard, bench.store._lock:
        with bench.kms.held():
            writing = pool.submit(cold.decrypt, value, PHONE, tenant=ACME, row=1)  # holds the stripe of the key
            assert bench.kms.waiting.acquire(timeout=20)
            assert in_a_child(child) == 0
        assert not writing.done()  # _guard is ours
    assert writing.result(20) == b"x"


def test_a_child_begins_with_empty_caches(bench):
    bench.envelope.encrypt(b"x", PHONE, tenant=ACME, row=1)
    keyring = bench.envelope.keyring

    def child():
        assert (keyring._keys, keyring.writers, keyring.readers) == ({}, {}, {})

    assert in_a_child(child) == 0
    assert keyring.writers


def test_a_page_of_two_warm_keys_asks_neither_store_nor_kms(bench, monkeypatch):
    first = bench.envelope.encrypt(b"1", PHONE, tenant=ACME, row=1)
    _rotate(bench)
    second = bench.other().encrypt(b"2", PHONE, tenant=ACME, row=2)
    page = {"tenant": ACME, "rows": [1, 2]}
    assert bench.envelope.decrypt_many([first, second], PHONE, **page) == [b"1", b"2"]
    bench.kms.away = True
    monkeypatch.delattr(type(bench.store), "by_ids")
    assert bench.envelope.decrypt_many([first, second], PHONE, **page) == [b"1", b"2"]


def test_a_page_unwraps_no_key_of_another_tenant(bench):
    ours = bench.envelope.encrypt(b"1", PHONE, tenant=ACME, row=1)
    theirs = bench.envelope.encrypt(b"2", PHONE, tenant="else", row=1)
    cold = bench.other()
    before = bench.kms.unwrapped
    cold.keyring.prefetch(ACME, PHONE, [1, 2])
    assert bench.kms.unwrapped == before + 1
    assert set(cold.keyring._keys) == {1}
    assert ours[2:6] != theirs[2:6]


def test_where_every_key_is_retired_nothing_is_encrypted_and_the_reason_is_true(bench):
    value = bench.envelope.encrypt(b"x", PHONE, tenant=ACME, row=1)
    bench.rows[1] = replace(bench.rows[1], state=KeyState.RETIRED)
    cold = bench.other()
    with pytest.raises(KeyMissing, match=r"no key of 'app\.users' is active: key 1 is retired"):
        cold.encrypt(b"x", PHONE, tenant=ACME, row=1)
    assert cold.decrypt(value, PHONE, tenant=ACME, row=1) == b"x"


def test_the_limit_stops_all_processes_and_a_successor_takes_over(bench):
    bench.envelope.encrypt(b"x", PHONE, tenant=ACME, row=1)
    bench.rows[1] = replace(bench.rows[1], used=MOST_INVOCATIONS - 2 * 1024)
    others = [bench.other(), bench.other(), bench.other()]
    done = 0
    for envelope in others:
        try:
            for row in range(3000):
                envelope.encrypt(b"x", PHONE, tenant=ACME, row=row)
                done += 1
        except KeyExhausted as exc:
            assert "2^32" in str(exc)  # noqa: PT017
    assert done == 2 * 1024
    assert bench.rows[1].used == MOST_INVOCATIONS
    new = _rotate(bench)
    assert others[0].encrypt(b"x", PHONE, tenant=ACME, row=1)[2:6] == new.to_bytes(4, "big")


@pytest.mark.parametrize("key_id", [2**31 - 1, 2**31, 2**32 - 1])
def test_a_key_id_may_use_all_of_its_four_bytes(bench, key_id):
    bench.envelope.encrypt(b"x", PHONE, tenant=ACME, row=1)
    bench.rows[key_id] = replace(bench.rows.pop(1), id=key_id)
    cold = bench.other()
    value = cold.encrypt(b"x", PHONE, tenant=ACME, row=1)
    assert value[2:6] == key_id.to_bytes(4, "big")
    assert bench.other().decrypt(value, PHONE, tenant=ACME, row=1) == b"x"


def test_a_first_lease_is_not_fetched_in_the_event_loop(bench, monkeypatch):
    asked = []
    lease = bench.store.lease

    def noted(*told, **more):
        asked.append(threading.get_ident())
        return lease(*told, **more)

    monkeypatch.setattr(bench.store, "lease", noted)  # hook: ok notes the leases and calls the real store
    asyncio.run(bench.envelope.aencrypt(b"x", PHONE, tenant=ACME, row=1))
    assert asked
    assert threading.get_ident() not in asked


@pytest.mark.parametrize("tenant", [None, 7, b"acme", "\ud800", "a\0b"])
def test_what_is_no_tenant_is_unbound_on_every_way(bench, tenant):
    told = {"field": PHONE, "tenant": tenant}
    by_reference = bench.envelope.encrypt(b"x", PHONE, tenant=ACME, row=1)
    inline = bench.envelope.encrypt_inline(b"x", PHONE, tenant=ACME, row=1)
    for act in (
        lambda: bench.envelope.encrypt(b"x", row=1, **told),
        lambda: bench.envelope.encrypt_many([b"x"], rows=[1], **told),
        lambda: bench.envelope.encrypt_inline(b"x", row=1, **told),
        lambda: bench.envelope.encrypt_deterministic(b"x", **told),
        lambda: bench.envelope.decrypt(by_reference, row=1, **told),
        lambda: bench.envelope.decrypt(inline, row=1, **told),
        lambda: bench.envelope.decrypt_many([by_reference, inline], rows=[1, 1], **told),
    ):
        with pytest.raises(Unbound, match="tenant"):
            act()


def test_a_table_of_no_tenant_is_not_the_table_of_some(bench):
    value = bench.envelope.encrypt(b"x", PHONE, tenant="", row=1)
    assert bench.envelope.decrypt(value, PHONE, tenant="", row=1) == b"x"
    inline = bench.envelope.encrypt_inline(b"x", PHONE, tenant="", row=1)
    assert bench.envelope.decrypt(inline, PHONE, tenant="", row=1) == b"x"


@pytest.mark.parametrize("generation", [0, -1, 2**31])
def test_a_generation_that_no_keyring_has_is_refused(bench, generation):
    with pytest.raises(ModeRefused, match="generation"):
        bench.envelope.encrypt_deterministic(b"x", EMAIL, tenant=ACME, generation=generation)


@pytest.mark.parametrize("settings", [{"max_keys": 0}, {"ttl": timedelta(seconds=-1)}])
def test_a_keyring_that_caches_nothing_ever_is_refused(tmp_path, settings):
    with pytest.raises(UsageError):
        Bench(tmp_path, **settings)


def test_without_a_ttl_every_use_asks_the_kms(tmp_path):
    bench = Bench(tmp_path, ttl=timedelta())
    value = bench.envelope.encrypt(b"x", PHONE, tenant=ACME, row=1)
    before = bench.kms.unwrapped
    for _ in range(3):
        assert bench.envelope.decrypt(value, PHONE, tenant=ACME, row=1) == b"x"
    assert bench.kms.unwrapped == before + 3


def test_a_field_without_a_column_is_unbound(bench):
    with pytest.raises(Unbound):
        bench.envelope.encrypt(b"x", Field("app.users", ""), tenant=ACME, row=1)
