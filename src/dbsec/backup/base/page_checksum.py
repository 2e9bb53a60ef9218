"""The checksum of a page, over many pages at once: which of them are not what the server wrote.

Source: PostgreSQL, ``storage/checksum_impl.h``: 32 FNV-1a sums beside each other, folded, and the block number at last.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final

from dbsec.errors import ProgramMissing

try:
    import numpy as np
except ModuleNotFoundError as exc:
    raise ProgramMissing(
        "page checksums need 'numpy', which is not installed", hint="pip install 'dbsec[backup]'"
    ) from exc

_LANES: Final = 32
_ROW_BYTES: Final = 4 * _LANES
_PRIME: Final = np.uint32(16777619)
_SHIFT: Final = np.uint32(17)
_BATCH: Final = 256  # pages at once: more of them leave the second-level cache, fewer pay for calls
_CHECKSUM, _UPPER = 4, 7  # pd_checksum and pd_upper, in 16 bits from the page's start
_OFFSETS: Final = np.array(
    [
        *(0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C),
        *(0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB),
        *(0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4),
        *(0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756),
    ],
    dtype=np.uint32,
)
_OWN = threading.local()

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Bad:
    """A page that fails: its place among those that were looked at, and the LSN that it claims."""

    index: int
    lsn: int


def bad_pages(pages: memoryview, numbers: Array, *, block_bytes: int = 8192) -> list[Bad]:
    """Return the pages whose checksum is wrong; ``numbers`` are their block numbers in the relation.

    A page of zeros is one that was never written, and good; one that has no upper bound and is not zero is bad.
    """
    found: list[Bad] = []
    whole = np.frombuffer(pages, dtype=np.uint32).reshape(len(numbers), block_bytes // _ROW_BYTES, _LANES)
    for first in range(0, len(numbers), _BATCH):
        batch = whole[first : first + _BATCH]
        words = batch.reshape(len(batch), -1)
        shorts = words.view(np.uint16)
        wrong = _checksums(batch, numbers[first : first + _BATCH]) != shorts[:, _CHECKSUM]
        wrong[wrong] = words[wrong].any(axis=1)
        if (unbound := shorts[:, _UPPER] == 0).any():
            wrong |= unbound & words.any(axis=1)
        found += [Bad(first + int(i), int(words[i, 0]) << 32 | int(words[i, 1])) for i in np.flatnonzero(wrong)]
    return found


def block_numbers(first: int, count: int) -> Array:
    """Return the numbers of neighbouring blocks, which wrap as the server's 32 bits do."""
    return np.arange(first, first + count, dtype=np.uint64).astype(np.uint32)


def joined(numbers: list[Array]) -> Array:
    """Join the numbers of several runs of blocks."""
    return np.concatenate(numbers)


def _checksums(batch: Array, numbers: Array) -> Array:
    """Return the checksum that each page must have; its own, which stands in the page, counts as zero."""
    pages, rows = batch.shape[:2]
    scratch = _scratch(rows)
    # row by row beside each other, so that each step runs over one piece of memory
    np.copyto(scratch.turned[:, :pages], batch.view("V128").reshape(pages, rows).T)
    scratch.words.view(np.uint16)[0].reshape(-1, 2 * _LANES)[:pages, _CHECKSUM] = 0
    size = pages * _LANES
    sums, mixed = scratch.sums[:size], scratch.mixed[:size]
    sums.reshape(pages, _LANES)[:] = _OFFSETS
    for row in range(rows):
        np.bitwise_xor(sums, scratch.words[row, :size], out=mixed)
        _mix(mixed, sums)
    for _ in range(2):  # two rounds of zeros
        mixed[:] = sums
        _mix(mixed, sums)
    folded = np.bitwise_xor.reduce(sums.reshape(pages, _LANES), axis=1) ^ numbers
    made: Array = folded % np.uint32(65535) + np.uint32(1)
    return made


def _mix(mixed: Array, sums: Array) -> None:
    np.multiply(mixed, _PRIME, out=sums)
    np.right_shift(mixed, _SHIFT, out=mixed)
    np.bitwise_xor(sums, mixed, out=sums)


class _Scratch:
    """The memory of one thread for a batch of pages with this many rows."""

    def __init__(self, rows: int) -> None:
        self.words: Array = np.empty((rows, _BATCH * _LANES), dtype=np.uint32)
        self.turned: Array = self.words.view("V128").reshape(rows, _BATCH)
        self.sums: Array = np.empty(_BATCH * _LANES, dtype=np.uint32)
        self.mixed: Array = np.empty(_BATCH * _LANES, dtype=np.uint32)


def _scratch(rows: int) -> _Scratch:
    held: _Scratch | None = getattr(_OWN, "scratch", None)
    if held is None or len(held.words) != rows:
        held = _OWN.scratch = _Scratch(rows)
    return held
