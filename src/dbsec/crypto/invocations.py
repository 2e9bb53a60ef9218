"""How often a DEK may still encrypt, each time with a nonce: leased from the keyring by the thousand.

A lease that a process takes with it into a crash counts as used: the limit is never passed, whatever is killed. What is
not covered is a snapshot of a running machine that is started twice: keep ``_MOST_READY`` small, and see the threat
model.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable

from dbsec.crypto import nonces

_FIRST_LEASE = 2**12
_LARGEST_LEASE = 2**20
_FIRST_READY = 8
_MOST_READY = 256

Lease = Callable[[int], bool]


class Refused(Exception):
    """The keyring leases no more of this key; never leaves this pillar."""


class Invocations:
    """The encryptions under one key by all threads of a process. ``lease`` asks the keyring for that many.

    ``ready`` holds nonces whose invocations are spent. Each leaves it once: ``list.pop`` is one act for all threads,
    and a fork empties the child's. Where it is empty, ``refill`` has the next.
    """

    __slots__ = ("__weakref__", "_draws", "_lease", "_left", "_lock", "_next_lease", "ready")

    def __init__(self, lease: Lease) -> None:
        self.ready: list[bytes] = []
        self._draws = _FIRST_READY
        self._lease = lease
        self._lock = threading.Lock()
        self._left = 0
        self._next_lease = _FIRST_LEASE
        _ALIVE.add(self)

    @property
    def left(self) -> int:
        """What of the leases is not spent."""
        return self._left

    def refill(self) -> bytes:
        """Return a nonce, and have more ready: twice as many as the last time. Errors: ``Refused``."""
        with self._lock:
            count = self._draws
            self._draws = min(count * 2, _MOST_READY)
            self._spend(count)
        drawn = nonces.draw(count)
        nonce = drawn.pop()
        self.ready.extend(drawn)
        return nonce

    def take_many(self, count: int) -> list[bytes]:
        """Return that many nonces at once. Errors: ``Refused``, and then none is spent."""
        with self._lock:
            self._spend(count)
        return nonces.draw(count)

    def start_anew(self) -> None:
        """Leave nonces and lease to the process that was forked, and a lock that one of its threads may hold."""
        self.ready.clear()
        self._left = 0
        self._lock = threading.Lock()

    def _spend(self, count: int) -> None:
        if count > self._left:
            asked = max(self._next_lease, count - self._left)
            if not self._lease(asked):
                # near the limit: what is left is handed out in the amount that is needed
                asked = count - self._left
                if not self._lease(asked):
                    raise Refused
            self._left += asked
            self._next_lease = min(self._next_lease * 2, _LARGEST_LEASE)
        self._left -= count


_ALIVE: weakref.WeakSet[Invocations] = weakref.WeakSet()


def _after_fork() -> None:
    for one in _ALIVE:
        one.start_anew()


os.register_at_fork(after_in_child=_after_fork)
