"""Objects of a backup, proven, on threads ahead of whoever needs them; memory stays bounded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Final, TypeVar

from dbsec.backup.errors import IncompleteBackup
from dbsec.backup.repository import Repository
from dbsec.store import ObjectMissing

T = TypeVar("T")
R = TypeVar("R")
_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Opened:
    """An object, proven; ``pieces`` is its plaintext, unpacked while it is taken, once."""

    plain_bytes: int
    pieces: Iterator[bytes]

    def whole(self) -> bytes:
        return b"".join(self.pieces)


def read(repository: Repository, backup: str, name: str) -> Opened:
    """Read an object. Errors: ``IncompleteBackup`` where it is gone; those of ``Repository.pieces``."""
    try:
        header, pieces = repository.pieces(name)
        return Opened(header.plain_bytes, pieces)
    except ObjectMissing as exc:
        raise IncompleteBackup(
            f"backup '{backup}' lacks its object '{name}'", hint="dbsec backup verify; an older one: --backup ID"
        ) from exc


def in_order(act: Callable[[T], R], items: Iterable[T], *, workers: int) -> Generator[R, None, None]:
    """Yield what ``act`` returns for each item, in their order; ``workers`` and one more are under way or wait.

    The first failure is raised in its place, and nothing is begun after it.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="dbsec-restore")
    under_way: deque[Future[R]] = deque()
    source = iter(items)
    try:
        for item in source:
            under_way.append(pool.submit(act, item))
            if len(under_way) > workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def ahead(made: Generator[T, None, None], *, most: int) -> Iterator[T]:
    """Let a generator run in a thread of its own, at most ``most`` of its values ahead. Errors: its own."""
    queue: Queue[T | _End] = Queue(most)
    left = threading.Event()

    def hand_over(value: T | _End) -> bool:
        while not left.is_set():
            with suppress(Full):
                queue.put(value, timeout=_POLL_S)
                return True
        return False

    def work() -> None:
        failure: BaseException | None = None
        try:
            with closing(made):
                for value in made:
                    if not hand_over(value):
                        return
        except BaseException as exc:  # noqa: BLE001 - it is raised where the values are taken
            failure = exc
        hand_over(_End(failure))

    thread = threading.Thread(target=work, name="dbsec-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(value := _next(queue, thread), _End):
            yield value
        if value.failure is not None:
            raise value.failure
    finally:
        left.set()
        thread.join()


class _End:
    def __init__(self, failure: BaseException | None) -> None:
        self.failure = failure


def _next(queue: Queue[T | _End], thread: threading.Thread) -> T | _End:
    while True:
        with suppress(Empty):
            return queue.get(timeout=_POLL_S)
        if not thread.is_alive() and queue.empty():
            return _End(RuntimeError("the thread that unpacks has died"))
