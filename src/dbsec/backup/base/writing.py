"""Cuts a flow of bytes into objects; seals and puts them on threads, a few at a time, so that memory stays bounded."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import BoundedSemaphore, Lock
from types import TracebackType
from typing import Final

from dbsec.backup import catalog
from dbsec.backup.codec import Codec
from dbsec.backup.keys import Epoch
from dbsec.backup.repository import Repository

OBJECT_BYTES: Final = 32 << 20  # of plaintext: the most that one object of a base backup holds
_WAITING: Final = 2  # objects that wait for a thread, beside those that threads have


class Sealer:
    """Puts the objects of one backup on ``workers`` threads; whoever brings more than they can take waits.

    A context manager: left in peace it waits for the last object, left by an error it drops what has not begun. The
    first failure of a thread is raised by the next call, or at the end. Errors: those of ``Repository.put``.
    """

    def __init__(self, repository: Repository, backup: str, epoch: Epoch, *, timeline: int, workers: int = 2) -> None:
        self._repository = repository
        self._backup = backup
        self._epoch = epoch
        self._timeline = timeline
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="dbsec-seal")
        self._room = BoundedSemaphore(workers + _WAITING)
        self._free: SimpleQueue[bytearray] = SimpleQueue()
        self._numbers = itertools.count()
        self._lock = Lock()
        self._failure: BaseException | None = None
        self.stored_bytes = 0

    def __enter__(self) -> Sealer:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if exc is not None:
            self._fail(exc)
        self._threads.shutdown(wait=True, cancel_futures=exc is not None)
        if exc is None:
            self._check()

    def data_name(self) -> str:
        """Return the next name of a data object; numbers run over the whole backup."""
        return catalog.data_name(self._backup, next(self._numbers))

    def put(
        self, name: str, plain: bytes | memoryview, *, codec: Codec, after: Callable[[], None] | None = None
    ) -> None:
        """Hand an object over; ``after`` is called once its bytes are no longer needed."""
        self._room.acquire()
        try:
            self._check()
            self._threads.submit(self._put, name, plain, codec, after)
        except BaseException:
            self._room.release()
            raise

    def buffer(self) -> bytearray:
        """Return room for an object: one that was given back, or a new one."""
        with suppress(Empty):
            return self._free.get_nowait()
        return bytearray(OBJECT_BYTES)

    def give_back(self, buffer: bytearray) -> None:
        """Let another object have it."""
        self._free.put(buffer)

    def _put(self, name: str, plain: bytes | memoryview, codec: Codec, after: Callable[[], None] | None) -> None:
        try:
            if self._failure is None:
                done = self._repository.put(name, plain, timeline=self._timeline, codec=codec, epoch=self._epoch)
                with self._lock:
                    self.stored_bytes += done.stored_bytes
        except BaseException as exc:  # noqa: BLE001 - it is raised where the flow is
            self._fail(exc)
        finally:
            if after is not None:
                after()
            self._room.release()

    def _fail(self, exc: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or exc

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure


class ObjectWriter:
    """Cuts what is written into objects of ``cut`` bytes, named by ``name`` in order.

    ``seen`` is shown each object's bytes and their place in the flow before it is handed over.
    """

    def __init__(
        self,
        sealer: Sealer,
        name: Callable[[], str],
        *,
        codec: Codec,
        cut: int = OBJECT_BYTES,
        seen: Callable[[memoryview, int], None] | None = None,
    ) -> None:
        self._sealer = sealer
        self._name = name
        self._codec = codec
        self._cut = cut
        self._seen = seen
        self._names: list[str] = []
        self._at = 0
        self._before = 0
        self._open()

    @property
    def written(self) -> int:
        """Bytes so far."""
        return self._before + self._at

    def write(self, piece: memoryview) -> None:
        """Take bytes; they are copied, once."""
        end = self._at + len(piece)
        if end < self._cut:
            self._view[self._at : end] = piece
            self._at = end
            return
        room = self._cut - self._at
        self._view[self._at : self._cut] = piece[:room]
        self._at = self._cut
        self._hand_over()
        self.write(piece[room:])

    def close(self) -> tuple[str, ...]:
        """Hand over what is left and return the names of all objects."""
        if self._at:
            self._hand_over()
        self._sealer.give_back(self._buffer)
        return tuple(self._names)

    def _open(self) -> None:
        self._buffer = self._sealer.buffer()
        self._view = memoryview(self._buffer)

    def _hand_over(self) -> None:
        plain, buffer, sealer = self._view[: self._at], self._buffer, self._sealer
        if self._seen is not None:
            self._seen(plain, self._before)
        name = self._name()
        sealer.put(name, plain, codec=self._codec, after=lambda: sealer.give_back(buffer))
        self._names.append(name)
        self._before += self._at
        self._at = 0
        self._open()
