"""The cache of a secret: who asks the source, who waits, what is served while it is away, and where that ends."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from tests.clocks import Hands

from dbsec import metrics
from dbsec.errors import ConfigError
from dbsec.retry import wait_until
from dbsec.secrets import AsyncCached, Cached, Policy, SecretMissing, SecretUnavailable

TTL, STALE = 10.0, 50.0
PLAIN = Policy(ttl_s=TTL, stale_s=STALE, jitter=0)


@dataclass
class Source:
    """Counts its calls; ``gate`` holds them back, ``failure`` fails them."""

    calls: int = 0
    failure: Exception | None = None
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def __call__(self) -> str:
        self.calls += 1
        number = self.calls
        assert self.gate.wait(20)
        if self.failure:
            raise self.failure
        return f"v{number}"

    async def later(self) -> str:
        await asyncio.sleep(0)
        while not self.gate.is_set():
            await asyncio.sleep(0.005)
        return self()


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def source() -> Source:
    return Source()


def cached(source: Source, hands: Hands, lives_s: float | None = None, policy: Policy = PLAIN) -> Cached[str]:
    return Cached("db", source, policy, lives_s=lambda _: lives_s, wait_s=5, clock=hands)


def until(holds: Callable[[], bool]) -> None:
    wait_until(holds, within_s=10, what="the background")


def test_fresh_then_stale_and_refreshed_behind_the_reader(source, hands):
    cache = cached(source, hands)
    assert [cache.get(), cache.get()] == ["v1", "v1"]
    hands.sleep(TTL - 0.001)
    assert (cache.get(), source.calls) == ("v1", 1)
    hands.sleep(0.001)
    source.gate.clear()
    assert cache.get() == "v1"  # the fetch is held back, the reader is not
    until(lambda: source.calls == 2)
    assert [cache.get() for _ in range(100)] == ["v1"] * 100
    assert source.calls == 2
    source.gate.set()
    until(lambda: cache.get() == "v2")


def test_an_outage_is_survived_up_to_the_bound_and_no_longer(source, hands):
    cache = cached(source, hands)
    cache.get()
    assert cache.outage_s == TTL + STALE
    source.failure = OSError("away")
    for _ in range(int(TTL + STALE) - 1):
        hands.sleep(1)
        before = source.calls
        assert cache.get() == "v1"
        if source.calls > before:
            until(lambda: cache._lock.acquire(blocking=False) and (cache._lock.release() or True))
    assert 0 < cache.outage_s <= 1
    assert 9 <= source.calls <= 25  # 49 s of outage, pauses of up to 5 s
    hands.sleep(1)
    hands.sleep(5)
    assert cache.outage_s == 0
    with pytest.raises(OSError, match="away"):
        cache.get()
    source.failure = None
    hands.sleep(5)
    assert cache.get() == f"v{source.calls}"


@pytest.mark.parametrize(("lives_s", "fresh_s", "ends_s"), [(30, 10, 30), (6, 2, 6), (600, 10, 60), (None, 10, 60)])
def test_a_value_is_never_used_past_its_own_end(source, hands, lives_s, fresh_s, ends_s):
    cache = cached(source, hands, lives_s)
    cache.get()
    source.failure = OSError("away")
    hands.sleep(fresh_s - 0.01)
    assert (cache.get(), source.calls) == ("v1", 1)
    hands.seconds = ends_s - 0.01
    assert cache.get() == "v1"
    until(lambda: source.calls == 2 and cache.failure is not None)
    hands.seconds = ends_s + 5
    with pytest.raises(OSError, match="away"):
        cache.get()


def test_a_value_that_came_late_has_lived_meanwhile(hands):
    def slow() -> str:
        hands.sleep(4)
        return "v"

    cache = Cached("db", slow, PLAIN, lives_s=lambda _: 30, clock=hands)
    cache.get()
    assert cache.outage_s == 26


def test_a_value_that_is_dead_when_it_comes_is_fetched_by_each_read(source, hands):
    cache = cached(source, hands, 0)
    assert (cache.get(), cache.get(), source.calls) == ("v1", "v2", 2)


def test_a_hundred_first_readers_cost_one_call(source, hands):
    cache = cached(source, hands)
    source.gate.clear()
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(cache.get())) for _ in range(100)]
    for thread in threads:
        thread.start()
    source.gate.set()
    for thread in threads:
        thread.join(20)
    assert (found, source.calls) == (["v1"] * 100, 1)


def test_after_a_failure_the_source_is_left_alone_for_a_while(source, hands):
    cache = cached(source, hands)
    source.failure = SecretMissing("there is no 'db'", hint="look")
    with pytest.raises(SecretMissing):
        cache.get()
    for _ in range(50):
        with pytest.raises(SecretUnavailable, match="there is no 'db'") as told:
            cache.get()
        assert isinstance(told.value.__cause__, SecretMissing)
        assert told.value.hint == "look"
    assert source.calls == 1
    hands.sleep(0.5)
    with pytest.raises(SecretMissing):
        cache.get()
    assert source.calls == 2


def test_a_failure_of_another_kind_does_not_show_its_words(source, hands):
    cache = cached(source, hands)
    source.failure = ValueError("password=hunter2")
    with pytest.raises(ValueError, match="hunter2"):
        cache.get()
    with pytest.raises(SecretUnavailable) as told:
        cache.get()
    assert str(told.value) == "'db' cannot be fetched: ValueError"


def test_who_waits_for_the_first_fetch_does_not_wait_for_ever(source, hands):
    cache = Cached("db", source, PLAIN, wait_s=0.05, clock=hands)
    source.gate.clear()
    first = threading.Thread(target=cache.get)
    first.start()
    until(lambda: source.calls == 1)
    with pytest.raises(SecretUnavailable, match=r"for more than 0\.05 s"):
        cache.get()
    source.gate.set()
    first.join()
    assert cache.get() == "v1"


def test_a_value_that_does_not_work_is_fetched_again_once(source, hands):
    cache = cached(source, hands)
    value = cache.get()
    assert not cache.invalidate(value)  # it is younger than settle_s
    hands.sleep(2)
    assert [cache.invalidate(value) for _ in range(3)] == [True, False, False]
    assert cache.get() == "v2"
    assert not cache.invalidate(value)  # another one came meanwhile
    assert (cache.get(), source.calls) == ("v2", 2)
    hands.sleep(2)
    assert cache.invalidate("v2")
    source.failure = OSError("away")
    with pytest.raises(OSError, match="away"):  # what is known not to work is not served as stale
        cache.get()


def test_processes_do_not_ask_in_step(hands):
    policy = Policy(ttl_s=100, stale_s=0, jitter=0.2)
    ends = set()
    for _ in range(50):
        cache = cached(Source(), hands, policy=policy)
        cache.get()
        ends.add(cache._state.held.fresh_until)
    assert len(ends) > 40
    assert min(ends) >= 80
    assert max(ends) <= 100


def test_a_child_does_not_inherit_a_lock_that_nobody_frees(source, hands):
    cache = cached(source, hands)
    cache.get()
    assert cache._lock.acquire()
    hands.sleep(TTL + STALE)
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(write, cache.get().encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 10) == b"v2"


def test_what_it_tells_of_itself(source, hands):
    cache = cached(source, hands)
    assert [s.name for s in cache.samples() if s.name.endswith("age_seconds")] == []
    cache.get()
    source.failure = OSError("away")
    hands.sleep(TTL + 1)
    cache.get()
    until(lambda: cache.failure is not None)
    told = {sample.name.removeprefix("dbsec_secret_"): sample.value for sample in cache.samples()}
    assert told == {
        "age_seconds": 11,
        "outage_survived_seconds": 49,
        "fetches": 1,
        "fetch_failures": 1,
        "stale_reads": 1,
    }
    assert 'dbsec_secret_outage_survived_seconds{secret="db"} 49.0' in metrics.text(cache.samples())
    assert repr(cache) == "<Cached of 'db'>"


@pytest.mark.parametrize("told", [{"ttl_s": 0}, {"stale_s": -1}, {"jitter": 1}, {"settle_s": -1}], ids=str)
def test_bad_policies_are_refused(told):
    with pytest.raises(ConfigError):
        Policy(**told)


# asyncio


def test_tasks_share_one_fetch_and_go_on_with_what_they_have(source, hands):
    async def story() -> None:
        cache = AsyncCached("db", source.later, PLAIN, clock=hands)
        source.gate.clear()
        readers = [asyncio.create_task(cache.get()) for _ in range(100)]
        await asyncio.sleep(0)
        readers[0].cancel()  # the one that began the fetch takes it from nobody
        source.gate.set()
        found = await asyncio.gather(*readers, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert (found[1:], source.calls) == (["v1"] * 99, 1)
        hands.sleep(TTL + 1)
        source.gate.clear()
        assert [await cache.get() for _ in range(10)] == ["v1"] * 10
        source.gate.set()
        while await cache.get() != "v2":
            await asyncio.sleep(0.005)
        assert source.calls == 2

    asyncio.run(asyncio.wait_for(story(), 20))


def test_tasks_survive_an_outage_up_to_the_bound(source, hands):
    async def story() -> None:
        cache = AsyncCached("db", source.later, PLAIN, lives_s=lambda _: 30, clock=hands)
        await cache.get()
        source.failure = OSError("away")
        hands.sleep(29)
        assert await cache.get() == "v1"
        while cache.failure is None:
            await asyncio.sleep(0.005)
        hands.sleep(6)
        with pytest.raises(OSError, match="away"):
            await cache.get()
        with pytest.raises(SecretUnavailable, match="OSError"):
            await cache.get()
        assert source.calls == 3

    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_task_does_not_wait_for_ever(source, hands):
    async def story() -> None:
        cache = AsyncCached("db", source.later, PLAIN, wait_s=0.05, clock=hands)
        source.gate.clear()
        with pytest.raises(SecretUnavailable, match=r"within 0\.05 s"):
            await cache.get()
        source.gate.set()
        assert await cache.get() == "v1"

    asyncio.run(asyncio.wait_for(story(), 20))
