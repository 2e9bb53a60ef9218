"""The pages of newer wraps in a store: read once each, for none of them ever changes."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Final, TypeVar

from dbsec.backup.errors import Tampered
from dbsec.backup.key_records import MOST_PAGE_BYTES, REWRAPS, Wrap, page_bytes, parse_page
from dbsec.errors import DbsecError, NewerFormat
from dbsec.store import ObjectMissing, ObjectStore

R = TypeVar("R")
READERS: Final = 16  # a store that is far away answers many at once
_RUN: Final = re.compile(r"(\d{8}T\d{6})Z-[0-9a-f]{8}")
_STAMP: Final = "%Y%m%dT%H%M%S"


class Rewraps:
    """The newest wraps of each key that was rewrapped; safe in threads.

    A page that is none of ours is left out and kept in ``trouble``: whoever may only add objects must not be able to
    close the whole repository with one.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._pages: dict[str, Mapping[str, tuple[Wrap, ...]]] = {}
        self._merged: dict[str, tuple[Wrap, ...]] | None = None
        self._newest: dict[str, int] = {}
        self.trouble: dict[str, DbsecError] = {}

    def of(self, name: str) -> tuple[tuple[Wrap, ...], tuple[Wrap, ...]]:
        """Return the newest wraps of a key, and the older ones, newest first; both empty where it was not rewrapped."""
        merged = self.every()
        newest = self._newest.get(name, 0)
        wraps = merged.get(name, ())
        return wraps[:newest], wraps[newest:]

    def every(self) -> Mapping[str, tuple[Wrap, ...]]:
        """Return all wraps of each key in all pages, newest first; read once."""
        with self._lock:
            if self._merged is None:
                self._read()
            assert self._merged is not None
            return self._merged

    def refresh(self) -> bool:
        """Read the pages that were added meanwhile; tells whether there were any."""
        with self._lock:
            return self._read()

    def put(self, run: str, page: int, wraps: Mapping[str, Sequence[Wrap]]) -> None:
        """Add a page."""
        self._store.put(f"{REWRAPS}{run}/{page:06d}", page_bytes(wraps))

    def new_run(self, now: datetime) -> str:
        """Return a name for a run that sorts after all others, also where the clock was put back."""
        self.refresh()
        with self._lock:
            last = max((found[1] for name in self._pages if (found := _run_of(name))), default="")
        stamp = f"{now:{_STAMP}}"
        if stamp <= last:
            stamp = f"{datetime.strptime(f'{last}+0000', f'{_STAMP}%z') + timedelta(seconds=1):{_STAMP}}"
        return f"{stamp}Z-{os.urandom(4).hex()}"

    def _read(self) -> bool:
        known = {**self._pages, **self.trouble}
        new = [entry for entry in self._store.list(REWRAPS) if entry.name not in known]
        fits = [entry.name for entry in new if entry.size <= MOST_PAGE_BYTES]
        self.trouble |= {e.name: Tampered(e.name, "no page is as large") for e in new if e.size > MOST_PAGE_BYTES}
        for name, raw in read_all(self._store, fits):
            try:
                if raw is None or _run_of(name) is None:
                    raise Tampered(name, "it is no page of keys")
                self._pages[name] = parse_page(name, raw)
            except (Tampered, NewerFormat) as exc:
                self.trouble[name] = exc
        if new or self._merged is None:
            self._merge()
        return bool(new)

    def _merge(self) -> None:
        merged: dict[str, list[Wrap]] = {}
        newest: dict[str, int] = {}
        for page in sorted(self._pages, reverse=True):
            for name, wraps in self._pages[page].items():
                newest.setdefault(name, len(wraps))
                merged.setdefault(name, []).extend(wraps)
        self._newest, self._merged = newest, {name: tuple(wraps) for name, wraps in merged.items()}


def read_all(store: ObjectStore, names: Iterable[str]) -> list[tuple[str, bytes | None]]:
    """Read small objects at once; None stands for one that is gone."""

    def read(name: str) -> tuple[str, bytes | None]:
        try:
            return name, store.get(name)
        except ObjectMissing:
            return name, None

    listed = list(names)
    if len(listed) < 2:
        return [read(name) for name in listed]
    with ThreadPoolExecutor(READERS, thread_name_prefix="dbsec-keys") as threads:
        return list(threads.map(read, listed))


def _run_of(name: str) -> re.Match[str] | None:
    parts = name.removeprefix(REWRAPS).split("/")
    return _RUN.fullmatch(parts[0]) if len(parts) == 2 and parts[1].isdigit() else None
