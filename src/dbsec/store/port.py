"""The port of an object store: five methods, and the names that objects may have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from dbsec.errors import UsageError
from dbsec.store.errors import StoreRefused

MOST_BYTES: Final = 80 << 20  # no object of ours is larger: what is would fill the memory before it is refused
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as a listing shows it. ``tag`` is another one whenever the store's bytes were written again."""

    name: str
    size: int
    modified: datetime
    tag: str = ""


class ObjectStore(Protocol):
    """Objects below one prefix; safe in threads. Errors: ``StoreUnavailable``, ``StoreRefused``."""

    def put(self, name: str, data: bytes) -> None:
        """Create an object; it is durable when this returns, and never there in part.

        Errors: ``ObjectExists``, also where an earlier try of ours has succeeded unheard; ``StoreFull``.
        """

    def get(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        """Read an object, or at most ``size`` bytes of it from ``offset`` on.

        Errors: ``ObjectMissing``; ``StoreRefused`` for more than ``MOST_BYTES``, before they are read.
        """

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose names begin with ``prefix`` and come after ``after``, in the order of their names.

        What is put or deleted meanwhile may be shown or not; what was there before and stays is always shown.
        """

    def delete(self, name: str) -> None:
        """Delete an object; one that is not there is no error. Errors: ``StoreRefused`` for one that is locked."""

    def head(self, name: str) -> ObjectInfo:
        """Tell size and age. Errors: ``ObjectMissing``."""


def check_name(name: str) -> str:
    """Return a name that leads nowhere else: parts of letters, digits, ``_ . @ -``, none of which begins with a dot.

    Errors: ``UsageError``.
    """
    if len(name) > 512 or not all(_PART.fullmatch(part) for part in name.split("/")):
        raise UsageError(f"{name[:200]!r} is no name of an object")
    return name


def check_size(name: str, size: int) -> None:
    """Refuse to read what none of ours can be. Errors: ``StoreRefused``."""
    if size > MOST_BYTES:
        raise StoreRefused(f"'{name}' has {size:,} bytes: no object of ours is larger than {MOST_BYTES:,}")
