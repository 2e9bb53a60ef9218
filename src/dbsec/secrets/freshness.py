"""How long a fetched value is fresh, how long it may be used, and when its source is asked again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from dbsec.clock import Clock
from dbsec.errors import ConfigError

T = TypeVar("T")

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0
_OF_LEASE = 1 / 3  # renewed at two thirds, an outage longer than the last third kills the credential in use


@dataclass(frozen=True, slots=True)
class Policy:
    """For how long a value serves, in seconds.

    ``ttl_s``: fresh, no question to the source. ``stale_s``: after that, still served while the source gives none;
    never past the value's own end. ``jitter``: the share of ``ttl_s`` by which one process asks earlier than another.
    ``settle_s``: for how long a new value stands even where a caller says that it does not work.
    """

    ttl_s: float = 300
    stale_s: float = 3600
    jitter: float = 0.2
    settle_s: float = 1.0

    def __post_init__(self) -> None:
        if not (self.ttl_s > 0 and self.stale_s >= 0 and 0 <= self.jitter < 1 and self.settle_s >= 0):
            raise ConfigError("a cache needs ttl_s above 0, stale_s and settle_s of 0 or more, and jitter in [0, 1)")


@dataclass(frozen=True, slots=True)
class Held(Generic[T]):
    """A value with three moments of the monotonic clock: fetched, fresh until, and to be used until."""

    value: T
    since: float
    fresh_until: float
    ends: float


class Freshness(Generic[T]):
    """The state of one cached value, without a lock and without a wait: the caches around it have those.

    ``lives_s`` tells for how many seconds from its fetch a value is good by its own account (its lease, its
    VALID UNTIL); None where it has no end. Moments are those of ``clock.monotonic``: a clock that is set changes none.
    """

    def __init__(self, policy: Policy, lives_s: Callable[[T], float | None], clock: Clock) -> None:
        self._policy = policy
        self._lives_s = lives_s
        self._now = clock.monotonic
        self._again = float("-inf")
        self._in_a_row = 0
        self.held: Held[T] | None = None
        self.failure: Exception | None = None
        self.fetches = self.failures = self.stale_reads = 0

    def due(self, now: float) -> bool:
        """Tell whether the source may be asked: not again right after it failed."""
        return now >= self._again

    def usable(self, now: float) -> Held[T] | None:
        """Return what may be used, fresh or stale."""
        held = self.held
        return held if held is not None and now < held.ends else None

    def hold(self, value: T, asked: float) -> T:
        """Take a value that was asked for at ``asked``: its life began there at the earliest."""
        lives_s = self._lives_s(value)
        life = float("inf") if lives_s is None else max(lives_s, 0.0)
        fresh = min(self._policy.ttl_s, life * _OF_LEASE) * (1 - random.uniform(0, self._policy.jitter))
        ends = asked + min(self._policy.ttl_s + self._policy.stale_s, life)
        self.fetches += 1
        self.failure, self._in_a_row, self._again = None, 0, float("-inf")
        self.held = Held(value, asked, asked + fresh, ends)
        return value

    def failed(self, failure: Exception) -> None:
        """Remember a failure: until a pause is over, which doubles up to 5 s, the source is not asked."""
        pause = min(_FIRST_PAUSE_S * 2**self._in_a_row, _LONGEST_PAUSE_S)
        self._in_a_row = min(self._in_a_row + 1, 10)
        self._again = self._now() + random.uniform(pause / 2, pause)
        self.failures += 1
        self.failure = failure

    def invalidate(self, value: T) -> bool:
        """Drop a value that does not work, but not one that replaced it, nor one that is younger than settle_s."""
        held = self.held
        if held is None or held.value != value or self._now() < held.since + self._policy.settle_s:
            return False
        self.held = None
        return True

    def age_s(self) -> float | None:
        """Return the seconds since the value was fetched."""
        return None if self.held is None else self._now() - self.held.since

    def outage_s(self) -> float:
        """Return for how many seconds from now reads succeed where the source answers no more."""
        return 0.0 if self.held is None else max(self.held.ends - self._now(), 0.0)
