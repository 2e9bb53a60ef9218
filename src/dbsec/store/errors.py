"""What a store refuses, and what cannot be asked of it now."""

from __future__ import annotations

from dbsec.errors import DbsecError


class StoreError(DbsecError):
    """The root of what a store answers; names are those of objects, and no secret stands in them."""


class ObjectExists(StoreError):
    """An object of that name is there already; it was not touched."""

    def __init__(self, name: str) -> None:
        super().__init__(f"object '{name}' is there already")
        self.name = name


class ObjectMissing(StoreError):
    """No object has that name, by the word of the store for this one name: a listing proves it, this does not."""

    def __init__(self, name: str) -> None:
        super().__init__(f"object '{name}' is not there")
        self.name = name


class StoreRefused(StoreError):
    """The store answers and says no: credentials, a missing bucket, a lock on an object."""


class StoreUnavailable(StoreError):
    """The store does not answer, or not with what it was asked for; the same call may succeed later."""


class StoreFull(StoreUnavailable):
    """There is no room left for an object."""
