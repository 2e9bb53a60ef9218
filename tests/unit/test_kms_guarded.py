"""What stands around every KMS, by a clock that only we move: tries, the circuit breaker, batches."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from dbsec.errors import UsageError
from dbsec.kms import (
    Breaker,
    CircuitOpen,
    Description,
    Guarded,
    KekState,
    KmsError,
    KmsRefused,
    KmsUnavailable,
    Patience,
    rewrap_many,
    unwrap_many,
)
from dbsec.kms.locks import ForkLock
from dbsec.shares import Fork

AAD = {"tenant": "a"}
DEK = bytes(range(32))
PATIENCE = Patience(within_s=5, failures=3, open_s=10)
ONCE = Patience(within_s=0, failures=3, open_s=10)


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self):
        self.passed = 0.0
        self.pauses = []

    def now(self):
        return datetime(2026, 11, 23, tzinfo=UTC) + timedelta(seconds=self.passed)

    def monotonic(self):
        return self.passed

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.passed += seconds


class Scripted:
    """Answers in turn what a list says: an error is raised, the rest returned; after its end, ``last`` for ever."""

    def __init__(self, *answers, last=b"wrapped"):
        self.answers = list(answers)
        self.last = last
        self.asked = 0

    def _answer(self):
        self.asked += 1
        answer = self.answers.pop(0) if self.answers else self.last
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wrap(self, dek, aad):
        return self._answer()

    def unwrap(self, wrapped, aad):
        return self._answer()

    def rewrap(self, wrapped, aad):
        return self._answer()

    def describe(self, aad=None):
        return self._answer()


class InOneCall(Scripted):
    """The same for many at once: an answer is a list, or an error for all."""

    def __init__(self, *answers, last=None):
        super().__init__(*answers, last=last)
        self.sizes = []

    def unwrap_many(self, items):
        self.sizes.append(len(items))
        return self._answer()

    rewrap_many = unwrap_many


def away(text="no route"):
    return KmsUnavailable(text, hint="look at the network")


def test_what_goes_unanswered_is_tried_again():
    clock, kms = Clock(), Scripted(away(), away())
    assert Guarded(kms, PATIENCE, clock).wrap(DEK, AAD) == b"wrapped"
    assert (kms.asked, len(clock.pauses)) == (3, 2)


def test_it_gives_up_in_time_and_says_what_went_wrong_last():
    clock, kms = Clock(), Scripted(last=away())
    patience = Patience(within_s=5, failures=1000)
    with pytest.raises(KmsUnavailable, match="unwrap by the KMS did not succeed within 5 s: no route") as gave_up:
        Guarded(kms, patience, clock).unwrap(b"x", AAD)
    assert gave_up.value.hint == "look at the network"
    assert 5 <= clock.passed <= 6
    assert kms.asked > 5


def test_pauses_differ():
    pauses = []
    for _ in range(20):
        clock = Clock()
        Guarded(Scripted(away()), PATIENCE, clock).wrap(DEK, AAD)
        pauses += clock.pauses
    assert len(set(pauses)) > 1


def test_a_refusal_is_never_tried_again_and_never_opens_the_circuit():
    clock, kms = Clock(), Scripted(last=KmsRefused("no"))
    guarded = Guarded(kms, PATIENCE, clock)
    for _ in range(10):
        with pytest.raises(KmsRefused, match="no"):
            guarded.unwrap(b"x", AAD)
    assert (kms.asked, clock.pauses) == (10, [])


def test_a_refusal_between_failures_closes_the_count():
    kms = Scripted(away(), away(), KmsRefused("no"), away(), away(), b"wrapped")
    guarded = Guarded(kms, ONCE, Clock())
    said = []
    for _ in range(6):
        try:
            said.append(guarded.wrap(DEK, AAD))
        except KmsError as exc:
            said.append(type(exc))
    assert said == [KmsUnavailable, KmsUnavailable, KmsRefused, KmsUnavailable, KmsUnavailable, b"wrapped"]


def opened(kms, clock, patience=ONCE):
    guarded = Guarded(kms, patience, clock)
    for _ in range(patience.failures):
        with pytest.raises(KmsUnavailable):
            guarded.wrap(DEK, AAD)
    return guarded


def test_an_open_circuit_asks_nobody_and_does_not_wait():
    clock, kms = Clock(), Scripted(last=away())
    guarded = opened(kms, clock, Patience(within_s=0, failures=3, open_s=10))
    guarded._patience = PATIENCE  # the patience to try again, which an open circuit must not use
    with pytest.raises(CircuitOpen, match=r"not asked for another 10\.0 s: the last 3 calls went unanswered"):
        guarded.wrap(DEK, AAD)
    assert (kms.asked, clock.pauses) == (3, [])


def test_a_circuit_that_opens_among_the_tries_ends_them():
    clock, kms = Clock(), Scripted(last=away())
    with pytest.raises(CircuitOpen):
        Guarded(kms, PATIENCE, clock).wrap(DEK, AAD)
    assert kms.asked == 3


def test_after_its_time_one_call_tries_and_closes_the_circuit():
    clock, kms = Clock(), Scripted(away(), away(), away())
    guarded = opened(kms, clock)
    clock.passed += 10
    assert guarded.wrap(DEK, AAD) == b"wrapped"
    assert guarded.wrap(DEK, AAD) == b"wrapped"
    assert kms.asked == 5


def test_a_try_that_fails_keeps_it_open():
    clock, kms = Clock(), Scripted(last=away())
    guarded = opened(kms, clock)
    clock.passed += 10
    with pytest.raises(KmsUnavailable, match="no route"):
        guarded.wrap(DEK, AAD)
    with pytest.raises(CircuitOpen):
        guarded.wrap(DEK, AAD)
    assert kms.asked == 4


def test_of_many_threads_one_tries():
    breaker = Breaker(ONCE, clock := Clock())
    for _ in range(3):
        with pytest.raises(KmsUnavailable):
            breaker.call(_fails)
    clock.passed += 10
    inside, go_on, results = threading.Event(), threading.Event(), []

    def slow():
        inside.set()
        assert go_on.wait(10)
        return "tried"

    trying = threading.Thread(target=lambda: results.append(breaker.call(slow)))
    trying.start()
    assert inside.wait(10)
    for _ in range(5):
        with pytest.raises(CircuitOpen):
            breaker.call(lambda: "another")
    go_on.set()
    trying.join()
    assert results == ["tried"]
    assert breaker.call(lambda: "all may") == "all may"


def test_a_try_that_never_ends_does_not_keep_it_open_for_ever():
    breaker = Breaker(ONCE, clock := Clock())
    for _ in range(3):
        with pytest.raises(KmsUnavailable):
            breaker.call(_fails)
    clock.passed += 10
    with pytest.raises(KeyboardInterrupt):
        breaker.call(_is_interrupted)
    with pytest.raises(CircuitOpen):
        breaker.call(lambda: "too early")
    clock.passed += 10
    assert breaker.call(lambda: "again") == "again"


def _fails():
    raise away()


def _is_interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize("call", [lambda kms: kms.wrap(DEK, {}), lambda kms: kms.unwrap(b"x", {})])
def test_a_dek_is_never_bound_to_nothing(call):
    kms = Scripted()
    with pytest.raises(UsageError, match="needs an AAD"):
        call(Guarded(kms, PATIENCE, Clock()))
    assert kms.asked == 0


@pytest.mark.parametrize("size", [0, 15, 513])
def test_what_is_no_dek_is_not_wrapped(size):
    with pytest.raises(UsageError, match=f"16 to 512 bytes, not {size}"):
        Guarded(Scripted(), PATIENCE, Clock()).wrap(bytes(size), AAD)


def test_describe_needs_no_aad():
    seen = Description("s", "s:k", "1", KekState.ENABLED, "file")
    assert Guarded(Scripted(away(), last=seen), PATIENCE, Clock()).describe() == seen


def items(count):
    return [(bytes([at]), AAD) for at in range(count)]


def test_of_many_only_those_without_an_answer_are_asked_for_again():
    no = KmsRefused("no")
    kms = InOneCall([bytearray(b"0"), away(), no, away()], [away(), bytearray(b"3")], [bytearray(b"1")])
    assert unwrap_many(Guarded(kms, PATIENCE, Clock()), items(4)) == [b"0", b"1", no, b"3"]
    assert kms.sizes == [4, 2, 1]


def test_of_many_an_error_for_all_stands_in_each_place():
    kms = InOneCall(last=KmsRefused("denied"))
    assert [str(one) for one in rewrap_many(Guarded(kms, PATIENCE, Clock()), items(3))] == ["denied"] * 3
    assert kms.asked == 1


def test_of_many_what_stays_unanswered_is_told_and_the_rest_kept():
    kms = InOneCall([b"0", away()], last=[away()])
    first, second = rewrap_many(Guarded(kms, Patience(within_s=1, failures=1000), Clock()), items(2))
    assert first == b"0"
    assert isinstance(second, KmsUnavailable)
    assert "did not succeed within 1 s" in str(second)


def test_one_by_one_nobody_waits_for_a_server_that_is_away():
    kms = Scripted(bytearray(b"0"), KmsRefused("no"), last=away())
    results = unwrap_many(kms, items(5))
    assert [type(one) for one in results] == [bytearray, KmsRefused, *[KmsUnavailable] * 3]
    assert kms.asked == 3


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forks among threads, which is the test
def test_a_lock_that_a_thread_held_at_a_fork_is_free_in_the_child():
    lock, held, go_on = ForkLock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            assert go_on.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)

    def in_child():
        with lock:
            return b"free"

    child = Fork(in_child)
    told = child.result()
    go_on.set()
    holder.join()
    assert told == b"free"
