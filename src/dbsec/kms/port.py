"""The port of a KMS: wrap and unwrap DEKs bound to an AAD, and, apart from it, the life of the KEK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias, runtime_checkable

from dbsec.canonical import length_prefixed
from dbsec.kms.errors import KmsError

Aad: TypeAlias = Mapping[str, str]
NO_AAD: Final[Aad] = MappingProxyType({})


def aad_bytes(aad: Aad) -> bytes:
    """Return the one spelling of an AAD, for a KMS that binds bytes; AWS takes the map itself.

    Shape: name and value of each pair in UTF-8, pairs sorted by name's bytes, each part after its length (4 bytes
    big-endian).
    """
    pairs = sorted((name.encode(), value.encode()) for name, value in aad.items())
    return length_prefixed([part for pair in pairs for part in pair])


class KekState(StrEnum):
    """Where a KEK is in its life; only ENABLED wraps and unwraps."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    PENDING_DESTRUCTION = "pending destruction"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True)
class Description:
    """What may be told of a KEK: nothing in it is secret.

    ``kek`` is its stable public name, as ``vault-transit:dbsec-acme``; ``version`` the one that wraps; ``protection``
    is "file", "software" or "hsm"; ``destroy_delay`` how long a destruction can still be taken back.
    """

    scheme: str
    kek: str
    version: str
    state: KekState
    protection: str
    fips: bool = False
    destroy_delay: timedelta = timedelta()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Destruction:
    """When a KEK is gone for good, and what ``note`` says of the copies that are left."""

    at: datetime
    note: str


class Kms(Protocol):
    """Wraps DEKs; safe in threads and after a fork. Errors: ``KmsUnavailable``, ``KmsRefused``."""

    def wrap(self, dek: bytes | bytearray, aad: Aad) -> bytes:
        """Wrap a DEK under the newest version of the KEK; the result is opaque."""

    def unwrap(self, wrapped: bytes, aad: Aad) -> bytearray:
        """Return the DEK; the caller zeroes it after use."""

    def rewrap(self, wrapped: bytes, aad: Aad) -> bytes:
        """Wrap the same DEK under the newest version of the KEK."""

    def describe(self, aad: Aad = NO_AAD) -> Description:
        """Ask the KMS for its KEK; of a template, ``aad["tenant"]`` says which one."""


@runtime_checkable
class Batched(Protocol):
    """What a KMS that takes many DEKs in one call has besides; a result stands where its item stood."""

    def unwrap_many(self, items: Sequence[tuple[bytes, Aad]]) -> list[bytearray | KmsError]:
        """Unwrap each; what failed is returned, not raised."""

    def rewrap_many(self, items: Sequence[tuple[bytes, Aad]]) -> list[bytes | KmsError]:
        """Rewrap each; what failed is returned, not raised."""


@runtime_checkable
class WrapsMany(Protocol):
    """What a KMS that wraps many DEKs in one call has besides."""

    def wrap_many(self, items: Sequence[tuple[bytes, Aad]]) -> list[bytes | KmsError]:
        """Wrap each DEK; what failed is returned, not raised."""


class KmsAdmin(Protocol):
    """The life of one KEK; never handed to the service."""

    def create(self) -> Description:
        """Make the KEK. Errors: ``KmsRefused`` where it is there already."""

    def rotate(self) -> Description:
        """Add a version, which wraps from now on; the older ones still unwrap."""

    def disable(self) -> Description:
        """Refuse wrap and unwrap until it is enabled again."""

    def enable(self) -> Description:
        """Take ``disable`` back."""

    def destroy(self) -> Destruction:
        """End every version of the KEK: what it wrapped opens never again."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a KMS is waited for.

    ``timeout_s`` a call, where the provider takes one; ``within_s`` all tries of a call together. After ``failures``
    unanswered calls in a row nobody asks for ``open_s``; then one call tries.
    """

    timeout_s: float = 2.0
    within_s: float = 5.0
    failures: int = 5
    open_s: float = 10.0


PATIENCE: Final = Patience()
