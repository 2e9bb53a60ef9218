"""Leases and nonces: the limit of a key is never passed, and no nonce is given twice, in threads and forks."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.forks import in_a_child

from dbsec.crypto import nonces
from dbsec.crypto.format import NONCE_BYTES
from dbsec.crypto.invocations import Invocations, Refused


class Leases:
    """A keyring's row: counts what was leased, up to a limit."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used, self.asked = limit, 0, 0
        self._lock = threading.Lock()

    def lease(self, count: int) -> bool:
        with self._lock:
            self.asked += 1
            if self.used + count > self.limit:
                return False
            self.used += count
            return True


def one(invocations: Invocations) -> bytes:
    """Take one, as a column does."""
    try:
        return invocations.ready.pop()
    except IndexError:
        return invocations.refill()


def taken_by_one(invocations: Invocations, most: int = 10**9) -> int:
    """Take one by one until it is refused; return how many."""
    for n in range(most):
        try:
            one(invocations)
        except Refused:
            return n
    return most


@given(st.integers(0, 20_000), st.lists(st.integers(0, 9_000), max_size=12))
def test_never_more_is_taken_than_was_leased(limit, batches):
    leases = Leases(limit)
    invocations = Invocations(leases.lease)
    taken = 0
    for count in batches:
        before = leases.used
        try:
            assert len(invocations.take_many(count)) == count
            taken += count
        except Refused:
            assert leases.used == before, "a refusal leases nothing"
        assert taken <= leases.used <= limit


@pytest.mark.parametrize("limit", [0, 1, 7, 4095, 4096, 4097, 12_289, 50_000])
def test_one_by_one_ends_at_the_limit(limit):
    leases = Leases(limit)
    taken = taken_by_one(Invocations(leases.lease))
    assert taken <= leases.used <= limit
    assert limit - taken < 256, "near the limit at most one draw of nonces is left unused"


@pytest.fixture
def restless():
    """Let threads take turns a thousand times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("restless")
def test_threads_together_never_pass_the_limit():
    leases = Leases(300_000)
    invocations = Invocations(leases.lease)
    start = threading.Barrier(8)

    def take(which: int) -> int:
        start.wait()
        return taken_by_one(invocations) if which % 2 else taken_in_batches(invocations)

    with ThreadPoolExecutor(8) as pool:
        taken = sum(pool.map(take, range(8)))
    assert 290_000 < taken <= leases.used <= leases.limit


def taken_in_batches(invocations: Invocations) -> int:
    taken = 0
    while True:
        try:
            taken += len(invocations.take_many(3))
        except Refused:
            return taken


def test_several_processes_share_one_limit():
    """Each has its own count, as after a fork: what one leased, no other gets."""
    leases = Leases(30_000)
    others = [Invocations(leases.lease) for _ in range(5)]
    assert sum(taken_by_one(each) for each in others) <= leases.used <= leases.limit


def test_leases_grow_so_that_a_busy_process_seldom_asks():
    leases = Leases(2**32)
    invocations = Invocations(leases.lease)
    for _ in range(200):
        invocations.take_many(10_000)
    assert leases.asked < 12


def test_a_batch_above_the_largest_lease_is_leased_at_once():
    leases = Leases(2**32)
    invocations = Invocations(leases.lease)
    count = 2**20 + 5
    assert len(invocations.take_many(count)) == count
    assert leases.used >= count


def test_no_nonce_is_given_to_two_threads():
    invocations = Invocations(lambda count: True)
    with ThreadPoolExecutor(8) as pool:
        got = [
            nonce for some in pool.map(lambda _: [one(invocations) for _ in range(3_000)], range(8)) for nonce in some
        ]
    got += invocations.take_many(5_000)
    assert {len(nonce) for nonce in got} == {NONCE_BYTES}
    assert not [nonce for nonce, times in Counter(got).items() if times > 1]


def test_no_nonce_is_given_to_parent_and_child():
    invocations = Invocations(lambda count: True)
    one(invocations)
    assert invocations.ready, "the parent has nonces in stock"
    reads, writes = os.pipe()

    def child() -> None:
        assert not invocations.ready
        os.write(writes, b"".join(one(invocations) for _ in range(50)))

    assert in_a_child(child) == 0
    os.close(writes)
    raw = b"".join(iter(lambda: os.read(reads, 4096), b""))
    os.close(reads)
    childs = {raw[at : at + NONCE_BYTES] for at in range(0, len(raw), NONCE_BYTES)}
    assert len(childs) == 50
    assert not childs & {one(invocations) for _ in range(500)}


def test_nonces_are_drawn_from_the_kernel_as_many_as_asked():
    assert nonces.draw(0) == []
    drawn = nonces.draw(1_000)
    assert len(set(drawn)) == 1_000
    ones = sum(bin(int.from_bytes(nonce)).count("1") for nonce in drawn)
    assert abs(ones - 48_000) < 5 * 155, "half of all bits, within five standard deviations"
