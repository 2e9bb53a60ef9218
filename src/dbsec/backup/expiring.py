"""Deletes what nothing needs any more, in an order that never leaves a backup that looks whole and is not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Final, TypeVar

from dbsec import canonical
from dbsec.backup import catalog
from dbsec.backup.catalog import Backup
from dbsec.backup.expiry_plan import TOMBS, Plan, plan, unwanted_pieces, unwanted_wal
from dbsec.backup.key_records import EPOCHS, epoch_name
from dbsec.backup.repository import Repository
from dbsec.backup.retention import Span
from dbsec.backup.settings import RetentionSettings
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import DbsecError
from dbsec.progress import Progress, Silent
from dbsec.retry import retry
from dbsec.store import ObjectMissing, StoreFull, StoreRefused, StoreUnavailable
from dbsec.store.bucket import Lock, Locks
from dbsec.store.file import FileStore
from dbsec.store.probing import store_time

T = TypeVar("T")
FORMAT: Final = 1
_THREADS: Final = 8
_AT_ONCE: Final = 1000
_MOST_TOLD: Final = 1000
_KEY_AGE: Final = timedelta(days=7)  # an epoch that old seals nothing new, whatever its clock and settings


@dataclass(slots=True)
class Expired:
    """What was deleted. ``kept``: backups that stay for their locks, or for what builds on them, with the reason.

    ``locked``: objects that the store did not let go; ``until``: when the last lock that is known ends; ``keys_kept``:
    why no key was deleted, or "". ``untold``: how many locked objects are not named.
    """

    backups: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    objects: int = 0
    wal: int = 0
    pieces: int = 0
    keys: int = 0
    swept: int = 0
    locked: list[str] = field(default_factory=list)
    untold: int = 0
    until: datetime | None = None
    keys_kept: str = ""


def expire(
    repository: Repository,
    settings: RetentionSettings,
    *,
    promised: timedelta,
    keys: bool = False,
    locks: Locks | None = None,
    patience_s: float = 30.0,
    progress: Progress | None = None,
    clock: Clock = SYSTEM,
) -> Expired:
    """Delete what ``plan`` names: descriptions, then their objects, then WAL, pieces, and with ``keys`` unused epochs.

    Killed at any point the same call does the rest. The earlier of our clock and the store's counts: one that has
    jumped ahead deletes nothing. What is locked stays and is told: a backup whose description is locked stays whole,
    with what it builds on; ``locks`` tells of locks before a delete would only hide what they hold. ``keys`` reads the
    header of every object.
    Errors: those of ``plan``; ``GaveUp`` where the store does not answer.
    """
    progress = progress or Silent()
    now = min(clock.now(), store_time(repository.store))
    job = _Job(repository, plan(repository, settings, promised=promised, now=now), locks, patience_s, progress)
    job.run()
    if keys:
        job.end_keys(now)
    if isinstance(repository.store, FileStore):
        job.done.swept = repository.store.sweep(now - timedelta(hours=24))
    return job.done


class _Job:
    """One run; ``plan`` grows by what locked backups need."""

    def __init__(
        self, repository: Repository, plan: Plan, locks: Locks | None, patience_s: float, progress: Progress
    ) -> None:
        self.done = Expired()
        self._repository = repository
        self._plan = plan
        self._locks = locks
        self._patience_s = patience_s
        self._progress = progress
        self._telling = threading.Lock()
        self._held: dict[str, str] = {}  # what a locked backup builds on, and which that is

    def run(self) -> None:
        for backup in self._plan.retained.expire:
            self._end(backup)
        for id in chain(self._plan.ended, self._plan.leftovers):
            self._progress.step(f"deleting what is left of '{id}'")
            if id in self._plan.ended and not self._gone(catalog.description_name(id)):
                continue
            if self._end_objects(id):
                self.done.leftovers.append(id)
        self._progress.step("deleting WAL that nothing needs")
        self.done.wal = self._delete(entry.name for entry in unwanted_wal(self._repository, self._plan))
        self.done.pieces = self._delete(unwanted_pieces(self._repository, self._plan))

    def end_keys(self, now: datetime) -> None:
        """Delete the epochs that no object names, last of all: before, what they seal might still be wanted."""
        old = f"{now - _KEY_AGE:%Y%m%dT%H%M%SZ}"
        names = [entry.name for entry in self._repository.list(EPOCHS) if entry.name.removeprefix(EPOCHS) < old]
        if not names:
            return
        self._progress.step("reading the header of every object, for the keys that they name")
        try:
            named = {epoch_name(epoch) for epoch in _epochs(self._repository)}
        except DbsecError as exc:
            self.done.keys_kept = f"which keys are needed is not known: {exc.message}"
            return
        self.done.keys = self._delete(name for name in names if name not in named)

    def _end(self, backup: Backup) -> None:
        name = catalog.description_name(backup.id)
        if backup.id in self._held:
            self._hold(backup, f"'{self._held[backup.id]}' builds on it")
            return
        if lock := self._lock(name):
            self._tell_locked(name, lock)
            self._hold(backup, str(lock))
            return
        self._progress.step(f"deleting backup '{backup.id}'")
        told = {"format": FORMAT, "what": "expired", "backup": backup.id, "stopped": backup.stopped}
        self._repository.put(f"{TOMBS}{backup.id}", canonical.json_bytes(told))
        # from here on it is no backup, and says so, whatever happens to the rest
        if not self._gone(name):
            self._hold(backup, "its description cannot be deleted")
            return
        self._end_objects(backup.id)
        self.done.backups.append(backup.id)

    def _hold(self, backup: Backup, why: str) -> None:
        """Keep what a backup needs that cannot be deleted: it still looks whole, so it has to be."""
        self.done.kept[backup.id] = why
        self._held.setdefault(backup.parent, backup.id)
        span = Span(backup.timeline, backup.start, backup.stop)
        self._plan = replace(self._plan, locked=(*self._plan.locked, span))

    def _end_objects(self, id: str) -> bool:
        """Delete all objects of a backup but its description, which is gone; False where it is there again."""
        names = (entry.name for entry in self._repository.list(f"{catalog.BASE}{id}/"))
        description = catalog.description_name(id)
        if self._there(description):  # it was finished meanwhile
            return False
        self.done.objects += self._delete(name for name in names if name != description)
        return True

    def _there(self, name: str) -> bool:
        try:
            self._patiently(lambda: self._repository.store.head(name), name)
        except ObjectMissing:
            return False
        return True

    def _delete(self, names: Iterable[str]) -> int:
        deleted, left = 0, iter(names)
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="dbsec-expire") as threads:
            while chunk := list(islice(left, _AT_ONCE)):
                deleted += sum(threads.map(self._gone, chunk))
                self._progress.count("objects deleted", deleted, deleted)
        return deleted

    def _gone(self, name: str) -> bool:
        """Delete one object; False where the store does not let it go."""
        if lock := self._lock(name):
            self._tell_locked(name, lock)
            return False
        try:
            self._patiently(lambda: self._repository.store.delete(name), name)
        except StoreRefused as exc:
            self._tell_locked(name, Lock(exc.message))
            return False
        return True

    def _lock(self, name: str) -> Lock | None:
        locks = self._locks
        return self._patiently(lambda: locks.of(name), name) if locks is not None else None

    def _tell_locked(self, name: str, lock: Lock) -> None:
        with self._telling:
            if len(self.done.locked) < _MOST_TOLD:
                self.done.locked.append(f"'{name}': {lock}")
            else:
                self.done.untold += 1
            if lock.until is not None:
                self.done.until = max(self.done.until or lock.until, lock.until)

    def _patiently(self, act: Callable[[], T], name: str) -> T:
        what = f"the store to delete '{name}'"
        return retry(act, on=(StoreUnavailable,), unless=(StoreFull,), within_s=self._patience_s, what=what)


def _epochs(repository: Repository) -> Iterator[str]:
    """Yield the epoch of every object. Errors: those of ``Repository.header``: doubt keeps all keys."""

    def read(name: str) -> str:
        try:
            return repository.header(name).epoch
        except ObjectMissing:  # deleted meanwhile
            return ""

    names = (entry.name for prefix in ("base/", "notes/", "wal/") for entry in repository.list(prefix))
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="dbsec-expire") as threads:
        while chunk := list(islice(names, _AT_ONCE)):
            yield from threads.map(read, chunk)
