"""Asks a KMS for many keys at once: in batches where it has them, and always several at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Final, TypeVar

from dbsec.kms import Aad, Kms, KmsError, batch

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")
Item = tuple[bytes, Aad]
THREADS: Final = 8
_CHUNK: Final = 249  # what OpenBao takes in one call


def unwrap_all(kms: Kms, items: Sequence[Item]) -> list[bytearray | KmsError]:
    """Unwrap each; a result or what went wrong stands where its item stood."""
    return _chunked(lambda chunk: batch.unwrap_many(kms, chunk), items)


def rewrap_all(kms: Kms, items: Sequence[Item]) -> list[bytes | KmsError]:
    """Rewrap each; a result or what went wrong stands where its item stood."""
    return _chunked(lambda chunk: batch.rewrap_many(kms, chunk), items)


def wrap_all(kms: Kms, items: Sequence[Item]) -> list[bytes | KmsError]:
    """Wrap each; a result or what went wrong stands where its item stood."""
    return _chunked(lambda chunk: batch.wrap_many(kms, chunk), items)


def _chunked(act: Callable[[Sequence[I]], list[R]], items: Sequence[I]) -> list[R]:
    if len(items) <= _CHUNK:
        return act(items) if items else []
    chunks = [items[at : at + _CHUNK] for at in range(0, len(items), _CHUNK)]
    with ThreadPoolExecutor(THREADS, thread_name_prefix="dbsec-kms") as threads:
        return list(chain.from_iterable(threads.map(act, chunks)))
