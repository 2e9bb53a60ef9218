"""Where wrapped DEKs stand: the port, what a row of the keyring is, and a store in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from dbsec.kms.locks import ForkLock

MOST_INVOCATIONS = 2**32  # NIST SP 800-38D, 8.3: encryptions under one key with random nonces, all processes together
MOST_KEYS = 2**32 - 1  # the key id has four bytes


class Purpose(StrEnum):
    """What a DEK is for. A lookup key is another one, because it lives as long as the index that was made with it."""

    DATA = "data"
    LOOKUP = "lookup"


class KeyState(StrEnum):
    """``active`` encrypts and decrypts, ``retired`` decrypts, ``destroyed`` does neither."""

    ACTIVE = "active"
    RETIRED = "retired"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A wrapped DEK before it has an id. ``tenant`` "" is a table that belongs to no tenant."""

    tenant: str
    context: str
    purpose: Purpose
    generation: int
    wrapped: bytes = field(repr=False)
    kek: str
    kek_version: str
    commitment: bytes = field(repr=False)
    salt: bytes = field(repr=False)

    @property
    def aad(self) -> dict[str, str]:
        """What the KMS binds the wrapped DEK to."""
        told = {
            "dbsec": "keyring/1",
            "tenant": self.tenant,
            "context": self.context,
            "purpose": str(self.purpose),
            "generation": str(self.generation),
        }
        return {key: value for key, value in told.items() if value}


@dataclass(frozen=True, slots=True)
class KeyRow(NewKey):
    """A row of the keyring. ``used`` counts the encryptions that were leased, not those that were done."""

    id: int = 0
    state: KeyState = KeyState.ACTIVE
    used: int = 0
    created_at: datetime | None = None
    retired_at: datetime | None = None


class KeyStore(Protocol):
    """The rows that the service needs; it neither rewraps nor destroys."""

    def active(self, tenant: str, context: str, purpose: Purpose) -> KeyRow | None:
        """Return the key that encrypts now: the active one of the highest generation."""

    def of_generation(self, tenant: str, context: str, purpose: Purpose, generation: int) -> KeyRow | None:
        """Return one generation in whatever state it is."""

    def by_ids(self, ids: Sequence[int]) -> list[KeyRow]:
        """Return the rows that there are, in no order."""

    def add(self, new: NewKey) -> KeyRow:
        """Add a key as active; where another process added that generation first, return its row."""

    def lease(self, key_id: int, count: int, *, limit: int = MOST_INVOCATIONS) -> bool:
        """Count that many encryptions as used; False, and nothing counted, above the limit or if it is not active."""


class MemoryKeyStore:
    """A keyring that ends with its process: for tests, vectors and benchmarks."""

    def __init__(self) -> None:
        self.rows: dict[int, KeyRow] = {}
        self._lock = ForkLock()

    def active(self, tenant: str, context: str, purpose: Purpose) -> KeyRow | None:
        found = [row for row in self._of(tenant, context, purpose) if row.state is KeyState.ACTIVE]
        return max(found, key=lambda row: row.generation, default=None)

    def of_generation(self, tenant: str, context: str, purpose: Purpose, generation: int) -> KeyRow | None:
        return next((row for row in self._of(tenant, context, purpose) if row.generation == generation), None)

    def by_ids(self, ids: Sequence[int]) -> list[KeyRow]:
        return [self.rows[key_id] for key_id in set(ids) & self.rows.keys()]

    def add(self, new: NewKey) -> KeyRow:
        with self._lock:
            if found := self.of_generation(new.tenant, new.context, new.purpose, new.generation):
                return found
            values = {name: getattr(new, name) for name in NewKey.__slots__}
            row = KeyRow(**values, id=len(self.rows) + 1, created_at=datetime.now(UTC))
            self.rows[row.id] = row
            return row

    def lease(self, key_id: int, count: int, *, limit: int = MOST_INVOCATIONS) -> bool:
        with self._lock:
            row = self.rows.get(key_id)
            if row is None or row.state is not KeyState.ACTIVE or row.used + count > limit:
                return False
            self.rows[key_id] = replace(row, used=row.used + count)
            return True

    def _of(self, tenant: str, context: str, purpose: Purpose) -> list[KeyRow]:
        wanted = (tenant, context, purpose)
        return [row for row in self.rows.values() if (row.tenant, row.context, row.purpose) == wanted]
