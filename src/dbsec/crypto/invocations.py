"""How often a DEK may still encrypt: counted here one by one, leased from the keyring by the thousand.

A lease that a process takes with it into a crash counts as used: the limit is never passed, whatever is killed.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

_FIRST_LEASE = 2**12
_LARGEST_LEASE = 2**20
_STEP = 1024

Lease = Callable[[int], bool]


class Refused(Exception):
    """The keyring leases no more of this key; never leaves this pillar."""


class Invocations:
    """A counter for all threads of a process. ``lease`` asks the keyring for that many."""

    __slots__ = ("_count", "_granted", "_lease", "_left", "_lock", "_next_lease")

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._lock = threading.Lock()
        self._count = itertools.count()  # its next() is one act for all threads
        self._granted = 0
        self._left = 0
        self._next_lease = _FIRST_LEASE

    def take(self) -> None:
        """Take one. Errors: ``Refused``."""
        n = next(self._count)
        if n >= self._granted:
            self._grant(n)

    def take_many(self, count: int) -> None:
        """Take that many at once. Errors: ``Refused``."""
        with self._lock:
            self._spend(count)

    def _grant(self, n: int) -> None:
        with self._lock:
            while n >= self._granted:
                self._spend(_STEP)
                self._granted += _STEP

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
