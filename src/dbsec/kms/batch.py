"""Many DEKs at once: in one call where the KMS has it, else one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from dbsec.kms.errors import KmsError, KmsUnavailable
from dbsec.kms.port import Aad, Batched, Kms, WrapsMany

R = TypeVar("R", bytes, bytearray)


def wrap_many(kms: Kms, items: Sequence[tuple[bytes, Aad]]) -> list[bytes | KmsError]:
    """Wrap each DEK; a result or what went wrong stands where its item stood."""
    return kms.wrap_many(items) if isinstance(kms, WrapsMany) else one_by_one(kms.wrap, items)


def unwrap_many(kms: Kms, items: Sequence[tuple[bytes, Aad]]) -> list[bytearray | KmsError]:
    """Unwrap each; a result or what went wrong stands where its item stood."""
    return kms.unwrap_many(items) if isinstance(kms, Batched) else one_by_one(kms.unwrap, items)


def rewrap_many(kms: Kms, items: Sequence[tuple[bytes, Aad]]) -> list[bytes | KmsError]:
    """Rewrap each; a result or what went wrong stands where its item stood."""
    return kms.rewrap_many(items) if isinstance(kms, Batched) else one_by_one(kms.rewrap, items)


def one_by_one(act: Callable[[bytes, Aad], R], items: Sequence[tuple[bytes, Aad]]) -> list[R | KmsError]:
    """Call ``act`` for each; after the first call without an answer nobody waits for the rest."""
    done: list[R | KmsError] = []
    away: KmsUnavailable | None = None
    for wrapped, aad in items:
        try:
            done.append(away or act(wrapped, aad))
        except KmsUnavailable as exc:
            away = exc
            done.append(exc)
        except KmsError as exc:
            done.append(exc)
    return done
