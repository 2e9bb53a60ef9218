"""What stands around every provider: tries again while it may, and stops asking a KMS that does not answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from dbsec import retry
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import GaveUp, UsageError
from dbsec.kms import batch
from dbsec.kms.errors import CircuitOpen, KmsError, KmsUnavailable
from dbsec.kms.locks import ForkLock
from dbsec.kms.port import NO_AAD, PATIENCE, Aad, Description, Kms, Patience

T = TypeVar("T")
R = TypeVar("R", bytes, bytearray)
_DEK_BYTES = range(16, 513)


class Breaker:
    """Lets calls through until ``failures`` in a row went unanswered; then none for ``open_s``, then one at a time.

    A refusal is an answer. Threads share it; a call runs outside its lock.
    """

    def __init__(self, patience: Patience = PATIENCE, clock: Clock = SYSTEM) -> None:
        self._patience = patience
        self._clock = clock
        self._lock = ForkLock()
        self._failed = 0
        self._closed_until: float | None = None

    def call(self, act: Callable[[], T]) -> T:
        """Run ``act``. Errors: ``CircuitOpen`` without running it."""
        self._admit()
        try:
            done = act()
        except KmsUnavailable:
            self._unanswered()
            raise
        except Exception:
            self._answered()
            raise
        self._answered()
        return done

    def _admit(self) -> None:
        with self._lock:
            if self._failed < self._patience.failures or self._closed_until is None:
                return
            left = self._closed_until - self._clock.monotonic()
            if left > 0:
                raise CircuitOpen(
                    f"the KMS is not asked for another {left:.1f} s: the last {self._failed} calls went unanswered"
                )
            # This call tries; should it never end, the next one may try after the same time.
            self._closed_until = self._clock.monotonic() + self._patience.open_s

    def _answered(self) -> None:
        with self._lock:
            self._failed, self._closed_until = 0, None

    def _unanswered(self) -> None:
        with self._lock:
            self._failed += 1
            self._closed_until = self._clock.monotonic() + self._patience.open_s


class Guarded:
    """A KMS with patience: what goes unanswered is tried again with jitter, what is refused never."""

    def __init__(
        self, kms: Kms, patience: Patience = PATIENCE, clock: Clock = SYSTEM, *, breaker: Breaker | None = None
    ) -> None:
        self._kms = kms
        self._patience = patience
        self._clock = clock
        self._breaker = breaker or Breaker(patience, clock)

    def __repr__(self) -> str:
        return f"<guarded {self._kms!r}>"

    def wrap(self, dek: bytes | bytearray, aad: Aad) -> bytes:
        """Wrap a DEK of 16 to 512 bytes."""
        if len(dek) not in _DEK_BYTES:
            raise UsageError(f"a DEK has 16 to 512 bytes, not {len(dek)}")
        return self._asked("wrap", aad, lambda: self._kms.wrap(dek, aad))

    def unwrap(self, wrapped: bytes, aad: Aad) -> bytearray:
        """Return the DEK; the caller zeroes it after use."""
        return self._asked("unwrap", aad, lambda: self._kms.unwrap(wrapped, aad))

    def rewrap(self, wrapped: bytes, aad: Aad) -> bytes:
        """Wrap the same DEK under the newest version of the KEK."""
        return self._asked("rewrap", aad, lambda: self._kms.rewrap(wrapped, aad))

    def describe(self, aad: Aad = NO_AAD) -> Description:
        """Ask the KMS for its KEK."""
        return self._try("describe", lambda: self._kms.describe(aad))

    def wrap_many(self, items: Sequence[tuple[bytes, Aad]]) -> list[bytes | KmsError]:
        """Wrap each DEK of 16 to 512 bytes; what failed is returned, not raised."""
        if wrong := next((dek for dek, _ in items if len(dek) not in _DEK_BYTES), None):
            raise UsageError(f"a DEK has 16 to 512 bytes, not {len(wrong)}")
        return self._many("wrap", items, batch.wrap_many)

    def unwrap_many(self, items: Sequence[tuple[bytes, Aad]]) -> list[bytearray | KmsError]:
        """Unwrap each; what failed is returned, not raised."""
        return self._many("unwrap", items, batch.unwrap_many)

    def rewrap_many(self, items: Sequence[tuple[bytes, Aad]]) -> list[bytes | KmsError]:
        """Rewrap each; what failed is returned, not raised."""
        return self._many("rewrap", items, batch.rewrap_many)

    def _asked(self, what: str, aad: Aad, act: Callable[[], T]) -> T:
        if not aad:
            raise UsageError(f"{what} needs an AAD: a DEK is always bound to what it is for")
        return self._try(what, act)

    def _try(self, what: str, act: Callable[[], T]) -> T:
        try:
            return retry.retry(
                lambda: self._breaker.call(act),
                on=(KmsUnavailable,),
                unless=(CircuitOpen,),
                within_s=self._patience.within_s,
                what=f"{what} by the KMS",
                clock=self._clock,
            )
        except GaveUp as exc:
            last = exc.__cause__
            raise KmsUnavailable(str(exc), hint=last.hint if isinstance(last, KmsError) else "") from exc

    def _many(
        self,
        what: str,
        items: Sequence[tuple[bytes, Aad]],
        act: Callable[[Kms, Sequence[tuple[bytes, Aad]]], list[R | KmsError]],
    ) -> list[R | KmsError]:
        """Ask for all, then again for those that went unanswered."""
        if not all(aad for _, aad in items):
            raise UsageError(f"{what} needs an AAD: a DEK is always bound to what it is for")
        done: dict[int, R | KmsError] = {}

        def attempt() -> None:
            left = [at for at in range(len(items)) if isinstance(done.get(at, _NOT_ASKED), KmsUnavailable)]
            done.update(zip(left, act(self._kms, [items[at] for at in left]), strict=True))
            for answer in done.values():
                if isinstance(answer, KmsUnavailable):
                    raise answer

        try:
            self._try(what, attempt)
        except KmsError as exc:
            return [exc if isinstance(one := done.get(at, exc), KmsUnavailable) else one for at in range(len(items))]
        return [done[at] for at in range(len(items))]


_NOT_ASKED = KmsUnavailable("not asked yet")
