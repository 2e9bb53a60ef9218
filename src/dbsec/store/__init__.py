"""Objects in a store: created once, never changed; a folder, S3 and what obstore brings besides."""

from __future__ import annotations

from dbsec.store.errors import ObjectExists, ObjectMissing, StoreError, StoreFull, StoreRefused, StoreUnavailable
from dbsec.store.opening import open_store
from dbsec.store.port import ObjectInfo, ObjectStore, check_name

__all__ = [
    "ObjectExists",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectStore",
    "StoreError",
    "StoreFull",
    "StoreRefused",
    "StoreUnavailable",
    "check_name",
    "open_store",
]
