"""A KEK for each tenant, from one URI with ``{tenant}`` in it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar

from dbsec.errors import UsageError
from dbsec.kms import batch
from dbsec.kms.errors import KmsError
from dbsec.kms.locks import ForkLock
from dbsec.kms.port import NO_AAD, Aad, Description, Kms

R = TypeVar("R", bytes, bytearray)


class Template:
    """Takes the KEK of ``aad["tenant"]`` for each call; the ones used last stay open."""

    def __init__(self, opened: Callable[[str], Kms], *, keep: int = 1000) -> None:
        self._open = opened
        self._keep = keep
        self._lock = ForkLock()
        self._opened: OrderedDict[str, Kms] = OrderedDict()

    def __repr__(self) -> str:
        return f"<a KEK for each tenant, {len(self._opened)} open>"

    def wrap(self, dek: bytes | bytearray, aad: Aad) -> bytes:
        """Wrap a DEK under its tenant's KEK."""
        return self._of(aad).wrap(dek, aad)

    def unwrap(self, wrapped: bytes, aad: Aad) -> bytearray:
        """Return the DEK; the caller zeroes it after use."""
        return self._of(aad).unwrap(wrapped, aad)

    def rewrap(self, wrapped: bytes, aad: Aad) -> bytes:
        """Wrap the same DEK under the newest version of its tenant's KEK."""
        return self._of(aad).rewrap(wrapped, aad)

    def describe(self, aad: Aad = NO_AAD) -> Description:
        """Ask the KMS for the KEK of a tenant."""
        return self._of(aad).describe(aad)

    def wrap_many(self, items: Sequence[tuple[bytes, Aad]]) -> list[bytes | KmsError]:
        """Wrap each, a tenant at a time; what failed is returned, not raised."""
        return self._many(items, batch.wrap_many)

    def unwrap_many(self, items: Sequence[tuple[bytes, Aad]]) -> list[bytearray | KmsError]:
        """Unwrap each, a tenant at a time; what failed is returned, not raised."""
        return self._many(items, batch.unwrap_many)

    def rewrap_many(self, items: Sequence[tuple[bytes, Aad]]) -> list[bytes | KmsError]:
        """Rewrap each, a tenant at a time; what failed is returned, not raised."""
        return self._many(items, batch.rewrap_many)

    def _of(self, aad: Aad) -> Kms:
        if "tenant" not in aad:
            raise UsageError("the KMS has a KEK for each tenant, and the AAD names none")
        tenant = aad["tenant"]
        with self._lock:
            if tenant not in self._opened:
                self._opened[tenant] = self._open(tenant)
            self._opened.move_to_end(tenant)
            while len(self._opened) > self._keep:
                self._opened.popitem(last=False)
            return self._opened[tenant]

    def _many(
        self,
        items: Sequence[tuple[bytes, Aad]],
        act: Callable[[Kms, Sequence[tuple[bytes, Aad]]], list[R | KmsError]],
    ) -> list[R | KmsError]:
        of_tenant: dict[str, list[int]] = {}
        for at, (_, aad) in enumerate(items):
            of_tenant.setdefault(aad.get("tenant", ""), []).append(at)
        done: dict[int, R | KmsError] = {}
        for places in of_tenant.values():
            mine = [items[at] for at in places]
            done.update(zip(places, act(self._of(mine[0][1]), mine), strict=True))
        return [done[at] for at in range(len(items))]
