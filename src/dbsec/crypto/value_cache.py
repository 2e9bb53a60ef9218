"""Decrypted values for a short time, where each reading would ask the KMS: inline values, and nothing else.

Off unless an ``Envelope`` is given one. By reference it would save nothing: there the key is cached, and to decrypt
costs no more than to look a value up (``benchmarks/value_cache.py``). What it costs is that plaintexts stay in memory
until ``ttl`` has passed, after which the next use of the cache drops them; they are ``bytes`` and cannot be zeroed. So
long may a value be read here, too, whose KEK was disabled or destroyed.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NoReturn

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import UsageError

__all__ = ["ValueCache"]

_ENTRY_BYTES = 300  # what Python needs around a key and a value


@dataclass(slots=True)
class _Shelf:
    """What is kept, in the order in which it came: nearly that of its ends."""

    values: OrderedDict[Hashable, tuple[float, bytes, int]] = field(default_factory=OrderedDict)
    bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def drop_oldest(self) -> None:
        _, (_, _, size) = self.values.popitem(last=False)
        self.bytes -= size


class ValueCache:
    """At most ``max_values`` and some ``max_bytes``, each for ``ttl`` from its decryption. Safe for threads.

    ``hits`` and ``misses`` are for metrics. It is emptied by a fork, and by ``Keyring.forget``.
    """

    def __init__(
        self,
        *,
        ttl: timedelta = timedelta(seconds=30),
        max_values: int = 10_000,
        max_bytes: int = 16 << 20,
        clock: Clock = SYSTEM,
    ) -> None:
        if ttl <= timedelta(0) or max_values < 1 or max_bytes < 1:
            raise UsageError("a value cache keeps one value at least, for some time", hint="without it there is none")
        self._ttl_s = ttl.total_seconds()
        self._max_values = max_values
        self._max_bytes = max_bytes
        self._now = time.monotonic if clock is SYSTEM else clock.monotonic
        self.hits = self.misses = 0
        self.clear()

    def clear(self) -> None:
        """Forget all; a value that is on its way in is not kept either. Takes no lock: a fork may have left it held."""
        self._shelf = _Shelf()

    def of(self, key: tuple[Hashable, ...], size: int, decrypt: Callable[[], bytes]) -> bytes:
        """Return what is kept under ``key``, or decrypt and keep it; ``key`` is ``size`` bytes long.

        It holds all that the value is bound to, not its bytes alone: those of another row are another value.
        Errors: those of ``decrypt``, and then nothing is kept.
        """
        shelf = self._shelf
        with shelf.lock:
            now = self._now()
            self._sweep(shelf, now)
            found = shelf.values.get(key)
        if found is not None and found[0] > now:
            self.hits += 1
            return found[1]
        self.misses += 1
        value = decrypt()
        with shelf.lock:
            if shelf is self._shelf:
                self._keep(shelf, key, value, size + len(value) + _ENTRY_BYTES, now + self._ttl_s)
        return value

    def holds(self, key: tuple[Hashable, ...]) -> bool:
        """Tell whether ``of`` would not decrypt."""
        found = self._shelf.values.get(key)
        return found is not None and found[0] > self._now()

    def _sweep(self, shelf: _Shelf, now: float) -> None:
        while shelf.values and next(iter(shelf.values.values()))[0] <= now:
            shelf.drop_oldest()

    def _keep(self, shelf: _Shelf, key: Hashable, value: bytes, size: int, ends: float) -> None:
        if key in shelf.values or size > self._max_bytes:
            return
        while shelf.values and (len(shelf.values) >= self._max_values or shelf.bytes + size > self._max_bytes):
            shelf.drop_oldest()
        shelf.values[key] = (ends, value, size)
        shelf.bytes += size

    def __len__(self) -> int:
        return len(self._shelf.values)

    def __repr__(self) -> str:
        return f"<value cache of {len(self)} values>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a value cache holds plaintexts: it is not pickled")
