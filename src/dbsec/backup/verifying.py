"""Reads a whole repository and proves it: every key and object opens, every backup and its WAL is there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, auto
from functools import partial
from itertools import islice
from typing import Final

from dbsec.backup.belonging import belongs
from dbsec.backup.errors import KeyUnavailable, Tampered
from dbsec.backup.key_notes import shredded
from dbsec.backup.key_records import EPOCHS, KeyRecord, epoch_name, period_of
from dbsec.backup.repository import MARKER, Repository, read_marker
from dbsec.backup.sealed import Header
from dbsec.backup.settings import RetentionSettings
from dbsec.backup.verified import Ledger
from dbsec.backup.wal.names import segment_of
from dbsec.backup.wholeness import SILENT_FOR, Doubts, finding, judge
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import DbsecError, GaveUp, NewerFormat, UsageError
from dbsec.findings import Finding
from dbsec.progress import Progress, Silent
from dbsec.store import ObjectInfo, ObjectMissing, StoreError
from dbsec.store.port import MOST_BYTES
from dbsec.store.probing import PROBES

WORKERS: Final = 4
_AT_ONCE: Final = 1000
_MOST_TOLD: Final = 1000  # of a million strange objects the first ones tell enough


class Apart(Enum):
    """An object of which nothing is to be proven: it was deleted meanwhile, or its month was ended."""

    DELETED = auto()
    SHREDDED = auto()


Verdict = Header | Apart | Finding | DbsecError  # proven, apart, what is wrong, or why that is not known


@dataclass(slots=True)
class Verified:
    """What was proven. ``skipped``: objects that were verified a short time ago, and are as they were listed then.

    ``unknown`` is what could not be told, ``notes`` what is no fault. ``shredded``: objects whose month was ended.
    ``untold``: findings and unknowns beyond the first thousand.
    """

    objects: int = 0
    stored_bytes: int = 0
    skipped: int = 0
    shredded: int = 0
    keys: int = 0
    untold: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def doubtless(self) -> bool:
        return not self.findings and not self.unknown


def verify(
    repository: Repository,
    settings: RetentionSettings,
    *,
    promised: timedelta,
    ledger: Ledger | None = None,
    silent_for: timedelta = SILENT_FOR,
    workers: int = WORKERS,
    progress: Progress | None = None,
    clock: Clock = SYSTEM,
) -> Verified:
    """Open every key and every object, and judge backups, WAL and the recovery window.

    With ``ledger`` objects are left out that it has seen a short time ago, whose tag has not changed and whose key
    opens: what a disk has lost since below the store's own tag is not seen then. ``silent_for``: how old the newest
    WAL may be before it is a doubt. Errors: those of the store for a listing; ``Tampered`` for ``repository.json``;
    ``UsageError`` on a host that only writes.
    """
    if not repository.keys.reads:
        raise UsageError("this host only writes: it opens nothing", hint="verify where [backup] kms can be reached")
    progress, done, begun = progress or Silent(), Verified(), clock.monotonic()
    progress.step("opening every key")
    opened = _keys(repository, done)
    reader = _Reader(repository, shredded(repository.store), read_marker(repository.store).segment_bytes)
    names: dict[str, set[str]] = defaultdict(set)
    with ThreadPoolExecutor(workers, thread_name_prefix="dbsec-verify") as threads:
        for chunk in _chunks(repository, names):
            now = clock.now()
            known = {entry.name for entry in chunk if ledger is not None and ledger.fresh(entry, now) in opened}
            done.skipped += len(known)
            wanted = [entry for entry in chunk if entry.name not in known]
            for entry, verdict in zip(wanted, threads.map(reader.verdict, wanted), strict=True):
                _count(done, entry, verdict)
                if ledger is not None:
                    _record(ledger, entry, verdict, clock)
            spent = max(clock.monotonic() - begun, 1e-9)
            rate = done.stored_bytes / spent / 1e6
            progress.step(f"{done.objects:,} objects open, {done.skipped:,} left out, {rate:,.0f} MB/s")
    asked = partial(judge, repository, names, settings, promised=promised, silent_for=silent_for, now=clock.now())
    _judge(asked, done)
    done.seconds = clock.monotonic() - begun
    return done


def _keys(repository: Repository, done: Verified) -> set[str]:
    """Open every key and return the epochs that opened."""
    keys = repository.keys
    keys.rewraps.refresh()
    gone, records = shredded(keys.store), keys.records()
    opened = keys.open_many(one for one in records.values() if isinstance(one, KeyRecord) and one.period not in gone)
    for name, key in {**{n: r for n, r in records.items() if isinstance(r, DbsecError)}, **opened}.items():
        if isinstance(key, KeyUnavailable) and not key.refused:
            done.unknown.append(str(key))
        elif isinstance(key, DbsecError):
            done.findings.append(finding(204, "key-does-not-open", name, str(key), "dbsec backup keys"))
        else:
            done.keys += 1
    for name, exc in keys.rewraps.trouble.items():
        done.findings.append(finding(204, "key-does-not-open", name, str(exc), "dbsec backup keys"))
    return {
        name.removeprefix(EPOCHS).removesuffix(".json")
        for name, key in opened.items()
        if isinstance(key, bytes) and name.startswith(EPOCHS)
    }


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads objects on any thread."""

    repository: Repository
    gone: frozenset[str]
    segment_bytes: int

    def verdict(self, entry: ObjectInfo) -> Verdict:
        """Look at one object."""
        if not belongs(entry.name, self.segment_bytes):
            return finding(203, "name-that-does-not-belong", entry.name, "no object of ours is there", warning=True)
        if entry.size > MOST_BYTES:
            return self._altered(entry, f"it has {entry.size:,} bytes, as no object of ours has")
        try:
            return self._proven(entry)
        except ObjectMissing:
            return Apart.DELETED
        except (Tampered, NewerFormat) as exc:
            return self._altered(entry, exc.message)
        except KeyUnavailable as exc:
            return finding(204, "key-does-not-open", entry.name, exc.message) if exc.refused else exc
        except (StoreError, GaveUp) as exc:
            return exc

    def _proven(self, entry: ObjectInfo) -> Header | Apart:
        if self.gone and period_of(epoch_name(self.repository.header(entry.name).epoch)) in self.gone:
            return Apart.SHREDDED
        header, plain = self.repository.pieces(entry.name)
        for _ in plain:  # to its end, where its size is proven
            pass
        if segment_of(entry.name, self.segment_bytes) is not None and header.plain_bytes != self.segment_bytes:
            raise Tampered(entry.name, f"it holds {header.plain_bytes} bytes, and is no whole segment")
        return header

    def _altered(self, entry: ObjectInfo, why: str) -> Finding:
        return finding(201, "object-altered", entry.name, why, "dbsec backup take")


def _count(done: Verified, entry: ObjectInfo, verdict: Verdict) -> None:
    match verdict:
        case Apart.DELETED:
            pass
        case Apart.SHREDDED:
            done.shredded += 1
        case Finding() | DbsecError() if len(done.findings) + len(done.unknown) >= _MOST_TOLD:
            done.untold += 1
        case Finding():
            done.findings.append(verdict)
        case DbsecError():
            done.unknown.append(f"'{entry.name}': {verdict.message}")
        case Header():
            done.objects += 1
            done.stored_bytes += entry.size


def _record(ledger: Ledger, entry: ObjectInfo, verdict: Verdict, clock: Clock) -> None:
    if isinstance(verdict, Header):
        ledger.add(entry, verdict, clock.now())
    else:
        ledger.drop(entry.name)


def _chunks(repository: Repository, names: dict[str, set[str]]) -> Iterator[list[ObjectInfo]]:
    """List all but the marker, the keys and the probes of stores; the names below ``base/`` are kept by id."""
    apart = (MARKER, "keys/", PROBES)
    entries = (entry for entry in repository.list("") if not entry.name.startswith(apart))
    while chunk := list(islice(entries, _AT_ONCE)):
        for entry in chunk:
            parts = entry.name.split("/")
            if parts[0] == "base" and len(parts) > 2:
                names[parts[1]].add(entry.name)
        yield chunk


def _judge(asked: Callable[[], Doubts], done: Verified) -> None:
    try:
        doubts = asked()
    except Tampered as exc:
        done.findings.append(finding(201, "object-altered", exc.name, exc.message))
    except (KeyUnavailable, GaveUp, StoreError, NewerFormat) as exc:
        done.unknown.append(exc.message)
    else:
        done.findings += doubts.findings
        done.unknown += doubts.unknown
        done.notes += doubts.notes
