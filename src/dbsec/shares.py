"""Work in shares, beside each other: a fork of this process does one, and hands its result back as bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from struct import Struct

_SIZE = Struct("=Q")


class Fork:
    """A function that runs in a copy of this process. For a process with one thread, which forks before it is asked
    for anything that a copy must not share: a connection, a lock, a file it writes."""

    def __init__(self, work: Callable[[], bytes]) -> None:
        self._reader, writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _hand_back(work, writer)
        os.close(writer)

    def result(self) -> bytes | None:
        """Wait for the bytes; None where the copy did not come to its end."""
        with open(self._reader, "rb") as stream:  # noqa: PTH123 a descriptor, no path
            told = stream.read()
        _, status = os.waitpid(self._pid, 0)
        return told if os.waitstatus_to_exitcode(status) == 0 else None


class Handout:
    """Bytes that a process gives to its copies while they run: made before the first of them, given once."""

    def __init__(self, most: int) -> None:
        import mmap

        self._most = most
        self._memory = mmap.mmap(-1, _SIZE.size + most)  # of zeros: nothing given
        self._reader, self._writer = os.pipe()

    def give(self, told: bytes) -> None:
        """Let the copies go on; with nothing where it is more than ``most``."""
        if len(told) <= self._most:
            self._memory[_SIZE.size : _SIZE.size + len(told)] = told
            self._memory[: _SIZE.size] = _SIZE.pack(len(told))
        os.close(self._writer)

    def join(self) -> None:
        """Say in a copy that it only takes."""
        os.close(self._writer)

    def take(self) -> bytes:
        """Wait, in a copy, for the bytes; none where the process ended without."""
        os.read(self._reader, 1)  # it ends when nobody has the other end any more
        (size,) = _SIZE.unpack(self._memory[: _SIZE.size])
        return self._memory[_SIZE.size : _SIZE.size + size]


def _hand_back(work: Callable[[], bytes], writer: int) -> None:
    """End here, whatever happens: what is above on the stack is the work of the process that was copied."""
    code = 1
    try:
        with open(writer, "wb") as stream:
            stream.write(work())
        code = 0
    finally:
        os._exit(code)


def processors() -> int:
    """Count the processors that this process may use; 1 where it cannot be copied."""
    if not hasattr(os, "fork"):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
