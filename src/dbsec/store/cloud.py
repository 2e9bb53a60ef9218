"""Objects in S3, Google Cloud Storage and Azure, through obstore; conditional puts, no multipart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from dbsec.errors import ConfigError, reason
from dbsec.secret import resolve
from dbsec.store.cloud_errors import error_of
from dbsec.store.errors import ObjectMissing, StoreRefused
from dbsec.store.port import ObjectInfo, check_name, check_size

_S3: Final = ("endpoint", "region", "ca", "access_key_id", "secret_access_key", "timeout_s")
_OTHERS: Final = ("ca", "timeout_s")
_FAILURES: Final = (exceptions.BaseError, OSError, ValueError)
_TIMEOUT_S: Final = 120  # of one request: an object of 64 MiB passes at 5 Mbit/s


def open_cloud(
    scheme: str, bucket: str, prefix: str, query: Mapping[str, str], environ: Mapping[str, str]
) -> CloudStore:
    """Open a bucket. Errors: ``ConfigError``."""
    if prefix:
        check_name(prefix)
    takes = _S3 if scheme == "s3" else _OTHERS
    if unknown := sorted(set(query) - set(takes)):
        raise ConfigError(f"a '{scheme}:' store knows no parameter '{unknown[0]}'", hint=f"it takes {', '.join(takes)}")
    if not query.get("endpoint", "https://").startswith("https://"):
        raise ConfigError("the endpoint of a store begins with https://: requests are signed, and not hidden")
    told: dict[str, Any] = {name: query[name] for name in ("endpoint", "region") if name in query}
    for name in ("access_key_id", "secret_access_key"):
        if name in query:
            told[name] = resolve(query[name], environ=environ).reveal()
    common: dict[str, Any] = {
        "client_options": _client(query),
        "retry_config": {"max_retries": 2, "retry_timeout": timedelta(seconds=20)},
    }
    opened = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[scheme]
    try:
        store = opened(bucket, prefix=prefix or None, **told, **common)
    except _FAILURES as exc:
        raise ConfigError(f"the '{scheme}:' store cannot be opened: {reason(exc)}") from None
    return CloudStore(store, f"{scheme}://{bucket}/{prefix}".rstrip("/"))


def _client(query: Mapping[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {"connect_timeout": timedelta(seconds=5), "timeout": _timeout(query)}
    if "ca" in query:
        try:
            options["root_certificate"] = Path(query["ca"]).read_bytes()
        except OSError as exc:
            raise ConfigError(f"cannot read '{query['ca']}': {exc.strerror}") from exc
    return options


def _timeout(query: Mapping[str, str]) -> timedelta:
    text = query.get("timeout_s", str(_TIMEOUT_S))
    if not text.isdecimal() or not 0 < int(text) <= 3600:
        raise ConfigError(f"'timeout_s={text[:20]}' of a store is a number of seconds up to 3600")
    return timedelta(seconds=int(text))


def _just_before(after: str) -> str:
    """Return an offset a little before one: SeaweedFS leaves out the folder that an offset names.

    No name lies between them but those that begin with a folder's own, and ``list`` leaves those out.
    """
    end = after.rstrip("/")
    return f"{end[:-1]}{chr(ord(end[-1]) - 1)}~"  # "~" comes after all that a name may hold


class CloudStore:
    """One prefix of a bucket."""

    def __init__(self, store: Any, name: str) -> None:
        self._store = store
        self._name = name

    def __repr__(self) -> str:
        return f"<CloudStore {self._name}>"

    def put(self, name: str, data: bytes) -> None:
        with self._trouble(name):
            obstore.put(self._store, check_name(name), data, mode="create", use_multipart=False)

    def get(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        with self._trouble(name):
            if size is None and not offset:
                found = obstore.get(self._store, check_name(name))
                check_size(name, found.meta["size"])
                return bytes(found.bytes())
            most = obstore.head(self._store, check_name(name))["size"] - offset
            length = max(0, most if size is None else min(size, most))
            check_size(name, length)
            if not length:
                return b""
            return bytes(obstore.get_range(self._store, name, start=offset, length=length))

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        # obstore's own prefix ends at a slash, and its offset counts within it
        folder, _, _ = prefix.rpartition("/")
        offset, last = _just_before(after) if after else None, ""
        with self._trouble(prefix, listing=True):
            for page in obstore.list(self._store, prefix=folder or None, offset=offset, chunk_size=1000):
                for entry in page:
                    name = entry["path"]
                    if name <= last:
                        raise StoreRefused(f"{self._name} lists {name[:200]!r} after {last[:200]!r}: not in order")
                    last = name
                    if name.startswith(prefix) and name > after:
                        yield ObjectInfo(name, entry["size"], entry["last_modified"], entry["e_tag"] or "")

    def delete(self, name: str) -> None:
        try:
            with self._trouble(name):
                obstore.delete(self._store, check_name(name))
        except ObjectMissing:
            return

    def head(self, name: str) -> ObjectInfo:
        with self._trouble(name):
            entry = obstore.head(self._store, check_name(name))
            return ObjectInfo(name, entry["size"], entry["last_modified"], entry["e_tag"] or "")

    @contextmanager
    def _trouble(self, name: str, *, listing: bool = False) -> Iterator[None]:
        """Tell apart what the store says; a missing bucket must not pass for an empty one."""
        try:
            yield
        except _FAILURES as exc:
            raise error_of(exc, name, self._name, listing=listing) from None
