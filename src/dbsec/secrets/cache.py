"""A cache of one secret that readers never wait for, but at its first read: for threads, and for asyncio."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakSet

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import DbsecError
from dbsec.secrets.errors import SecretUnavailable
from dbsec.secrets.freshness import Freshness, Policy

if TYPE_CHECKING:
    from dbsec.metrics import Sample

T = TypeVar("T")
F = TypeVar("F")


class _Cache(Generic[T, F]):
    """What both caches are made of, and tell of themselves; ``F`` is what ``fetch`` returns."""

    def __init__(
        self,
        name: str,
        fetch: Callable[[], F],
        policy: Policy | None = None,
        *,
        lives_s: Callable[[T], float | None] | None = None,
        wait_s: float = 10.0,
        clock: Clock = SYSTEM,
    ) -> None:
        self.name = name
        self._state: Freshness[T] = Freshness(policy or Policy(), lives_s or _no_end, clock)
        self._now = clock.monotonic
        self._fetch = fetch
        self._wait_s = wait_s
        self._begin()

    def _begin(self) -> None:
        """Make what one process has for itself."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of '{self.name}'>"

    @property
    def outage_s(self) -> float:
        """Seconds from now for which reads succeed where the source answers no more."""
        return self._state.outage_s()

    @property
    def failure(self) -> Exception | None:
        """What the last fetch failed with; None where it succeeded."""
        return self._state.failure

    def invalidate(self, value: T) -> bool:
        """Say that a value does not work: the next read fetches. Tells whether it was dropped.

        Nothing is dropped where another value came meanwhile, or where this one is younger than ``settle_s``: a
        hundred readers that are refused at once cost one fetch.
        """
        return self._state.invalidate(value)

    def samples(self) -> list[Sample]:
        """Measure: age, seconds of outage that are survived, fetches, failures, and reads of a stale value."""
        from dbsec.metrics import Sample

        state, labels = self._state, {"secret": self.name}
        age = state.age_s()
        told = {
            "outage_survived_seconds": (state.outage_s(), "for how long reads go on without the secrets server"),
            "fetches": (state.fetches, "values that came, since the start of the process"),
            "fetch_failures": (state.failures, "fetches that failed, since the start of the process"),
            "stale_reads": (state.stale_reads, "reads of a value past its time to live"),
        }
        if age is not None:
            told["age_seconds"] = (age, "since the value was fetched")
        return [Sample(f"dbsec_secret_{name}", value, text, labels) for name, (value, text) in told.items()]

    def _kept_failure(self) -> DbsecError:
        """Return an error of its own for each reader, made of the failure that all of them share."""
        failure = self._state.failure
        if isinstance(failure, DbsecError):
            raised = SecretUnavailable(failure.message, hint=failure.hint)
        else:
            raised = SecretUnavailable(f"'{self.name}' cannot be fetched: {type(failure).__name__}")
        raised.__cause__ = failure
        return raised


class Cached(_Cache[T, T]):
    """A value for threads.

    A read of a fresh value takes no lock. Of a stale one neither: one thread in the background fetches, and readers go
    on with what they have until its own end. The first read, and one after the end, fetches as one while the others
    wait, for ``wait_s`` at most; after a failure they are told at once until the source may be asked again.
    After a fork the child has its own lock; the value is kept.
    """

    def get(self) -> T:
        """Return the value.

        Errors: those of ``fetch`` for the thread that fetched; ``SecretUnavailable`` for those that waited, and while
        the source is not asked again after a failure.
        """
        held = self._state.held
        now = self._now()
        if held is not None and now < held.fresh_until:
            return held.value
        return self._not_fresh(now)

    def _not_fresh(self, now: float) -> T:
        state = self._state
        held = state.usable(now)
        if held is not None:
            state.stale_reads += 1
            if state.due(now) and (lock := self._lock).acquire(blocking=False):
                self._in_background(lock)
            return held.value
        lock = self._lock
        if not lock.acquire(timeout=self._wait_s):
            raise SecretUnavailable(f"another thread has fetched '{self.name}' for more than {self._wait_s:g} s")
        try:
            now = self._now()
            if (held := state.usable(now)) is not None:
                return held.value
            if not state.due(now):
                raise self._kept_failure()
            return self._load()
        finally:
            lock.release()

    def _begin(self) -> None:
        """Take a lock, and another one after a fork: one that a thread of the parent held is held for ever."""
        self._lock = threading.Lock()
        _caches.add(self)

    def _in_background(self, lock: threading.Lock) -> None:
        def refresh() -> None:
            try:
                self._load()
            except Exception:  # noqa: BLE001, S110 (kept as ``failure``; the value of before is served on)
                pass
            finally:
                lock.release()

        try:
            threading.Thread(target=refresh, name=f"dbsec-secret-{self.name}", daemon=True).start()
        except RuntimeError as exc:  # no more threads: this reader has its value all the same
            self._state.failed(exc)
            lock.release()

    def _load(self) -> T:
        asked = self._now()
        try:
            return self._state.hold(self._fetch(), asked)
        except Exception as exc:
            self._state.failed(exc)
            raise


_caches: WeakSet[Cached[Any]] = WeakSet()


def _after_fork() -> None:
    for cache in list(_caches):
        cache._begin()


os.register_at_fork(after_in_child=_after_fork)


class AsyncCached(_Cache[T, Awaitable[T]]):
    """A value for the tasks of one event loop; otherwise as ``Cached``.

    The fetch is a task of its own: a reader that is cancelled takes it from no other.
    """

    def _begin(self) -> None:
        self._loading: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """Return the value. Errors: those of ``fetch``; ``SecretUnavailable`` as ``Cached.get``."""
        held = self._state.held
        now = self._now()
        if held is not None and now < held.fresh_until:
            return held.value
        if (held := self._state.usable(now)) is not None:
            self._state.stale_reads += 1
            if self._state.due(now):
                self._task()
            return held.value
        if self._loading is None and not self._state.due(now):
            raise self._kept_failure()
        try:
            return await asyncio.wait_for(asyncio.shield(self._task()), self._wait_s)
        except TimeoutError:
            raise SecretUnavailable(f"'{self.name}' did not come within {self._wait_s:g} s") from None

    def _task(self) -> asyncio.Task[T]:
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
            self._loading.add_done_callback(self._loaded)
        return self._loading

    def _loaded(self, task: asyncio.Task[T]) -> None:
        self._loading = None
        if not task.cancelled():
            task.exception()  # seen: it is kept as ``failure``

    async def _load(self) -> T:
        asked = self._now()
        try:
            return self._state.hold(await self._fetch(), asked)
        except Exception as exc:
            self._state.failed(exc)
            raise


def _no_end(_: object) -> None:
    return None
