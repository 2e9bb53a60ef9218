"""Proves that a new KEK alone opens every object of a repository: before that the old one must not be retired."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from dbsec import retry
from dbsec.backup import sealed
from dbsec.backup.errors import KeyUnavailable, Tampered
from dbsec.backup.key_notes import PROOFS, put_note, shredded
from dbsec.backup.key_records import CONTENT, KeyRecord, epoch_name, period_of
from dbsec.backup.keys import BackupKeys
from dbsec.backup.rekey import Targets, repository_under
from dbsec.backup.repository import MARKER, Repository, kind_of
from dbsec.clock import SYSTEM, Clock
from dbsec.crypto.errors import DecryptionFailed
from dbsec.crypto.stream.reader import StreamReader
from dbsec.errors import DbsecError, NewerFormat
from dbsec.kms import Kms
from dbsec.progress import Progress, Silent
from dbsec.store import ObjectInfo, ObjectMissing, ObjectStore, StoreFull, StoreUnavailable

WORKERS: Final = 8
_KEYS: Final = "keys/"
_AT_ONCE: Final = 2000  # objects whose verdicts wait in memory


@dataclass(slots=True)
class Named:
    """How often a KEK that is no target is still named: by ``newest`` wraps, which need it, and ``older`` ones."""

    newest: int = 0
    older: int = 0


@dataclass(slots=True)
class Proof:
    """What was proven. ``failed``: what does not open, with the reason; ``foreign``: objects that are none of ours.

    ``shredded``: objects of a month whose KEK was destroyed on purpose. ``others``: KEKs that are no target.
    """

    keks: list[str] = field(default_factory=list)
    keys: int = 0
    objects: int = 0
    shredded: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    others: dict[str, Named] = field(default_factory=dict)
    note: str = ""

    @property
    def proven(self) -> bool:
        return not self.failed

    @property
    def retirable(self) -> list[str]:
        """Name the KEKs that nothing needs any more; empty where not everything was proven."""
        return sorted(kek for kek, named in self.others.items() if not named.newest) if self.proven else []


def prove(
    repository: Repository,
    targets: Targets,
    *,
    workers: int = WORKERS,
    patience_s: float = 30.0,
    progress: Progress | None = None,
    clock: Clock = SYSTEM,
) -> Proof:
    """Open every key and the last frame of every object under ``targets.kms`` alone, every key under the escrow alone.

    The last frame proves an object's size, and its header is bound to all frames. Errors: ``KeyUnavailable`` where the
    KMS does not answer; ``GaveUp`` where the store does not.
    """
    progress = progress or Silent()
    progress.step("opening every key under the new KEK alone")
    repository.keys.rewraps.refresh()
    proof, gone = Proof(), shredded(repository.store)
    keys = _opened(repository.keys, targets.kms, gone, proof)
    if targets.escrow is not None:
        progress.step("opening every key under the escrow alone")
        _compare(repository.keys, targets.escrow, gone, keys, proof)
    opener = _Opener(repository.store, repository.system, keys, gone, patience_s)
    with ThreadPoolExecutor(workers, thread_name_prefix="dbsec-prove") as threads:
        for chunk in _chunks(repository.store):
            for entry, verdict in zip(chunk, threads.map(opener.verdict, chunk), strict=True):
                _count(proof, entry.name, verdict)
            progress.step(f"{proof.objects:,} objects open, {len(proof.failed):,} do not")
    _others(repository.keys, targets, proof)
    told = {"what": "proof", "keks": proof.keks, "keys": proof.keys, "objects": proof.objects}
    told |= {"proven": proof.proven, "failed": proof.failed[:1000], "retirable": proof.retirable}
    if isinstance(keys.get(CONTENT), bytes):  # without it nothing can be put
        proof.note = put_note(repository_under(repository, targets), PROOFS, clock.now(), told)
    return proof


def _opened(keys: BackupKeys, kms: Kms, gone: frozenset[str], proof: Proof) -> dict[str, bytes | DbsecError]:
    """Open every key by one KMS; those of shredded months stay shut, and are not counted."""
    alone = keys.under(kms=kms)
    records = alone.records()
    opened: dict[str, bytes | DbsecError] = {n: r for n, r in records.items() if isinstance(r, DbsecError)}
    opened |= alone.open_many(r for r in records.values() if isinstance(r, KeyRecord) and r.period not in gone)
    for name, key in opened.items():
        if isinstance(key, KeyUnavailable) and not key.refused:
            raise key
        if isinstance(key, DbsecError):
            proof.failed.append((name, str(key)))
        else:
            proof.keys += 1
    proof.failed += [(name, str(exc)) for name, exc in alone.rewraps.trouble.items()]
    return opened


def _compare(
    keys: BackupKeys, escrow: Kms, gone: frozenset[str], first: Mapping[str, bytes | DbsecError], proof: Proof
) -> None:
    """The same keys open the same objects: the escrow is proven without reading one."""
    by_escrow = Proof()
    for name, key in _opened(keys, escrow, gone, by_escrow).items():
        one = first.get(name)
        if isinstance(key, bytes) and isinstance(one, bytes) and not hmac.compare_digest(key, one):
            proof.failed.append((name, "the escrow opens another key"))
    told = {name for name, _ in proof.failed}
    proof.failed += [(name, f"escrow: {why}") for name, why in by_escrow.failed if name not in told]


@dataclass(frozen=True, slots=True)
class _Opener:
    """Opens the last frame of objects, on any thread."""

    store: ObjectStore
    system: int
    keys: Mapping[str, bytes | DbsecError]
    gone: frozenset[str]
    patience_s: float

    def verdict(self, entry: ObjectInfo) -> str | None:
        """Return "" for an object that opens, the reason for one that does not, None for one that has gone meanwhile.

        The words "shredded" and "foreign" stand for objects of a shredded month, and for those that are not ours.
        """
        try:
            kind = kind_of(entry.name)
        except ValueError:
            return "foreign"
        try:
            head = self._read(entry.name, 0, sealed.MOST_PRELUDE_BYTES)
            header = sealed.read_header(entry.name, head)
            sealed.check(header, entry.name, system=self.system, kind=kind)
        except ObjectMissing:
            return None
        except (Tampered, NewerFormat) as exc:
            return str(exc)
        name = epoch_name(header.epoch)
        if period_of(name) in self.gone:
            return "shredded"
        key = self.keys.get(name, KeyUnavailable(f"the key '{name}' is not in the store", refused=True))
        return str(key) if isinstance(key, DbsecError) else self._last_frame(entry, head, key)

    def _last_frame(self, entry: ObjectInfo, head: bytes, key: bytes) -> str | None:
        def read(offset: int, size: int) -> bytes:
            inside = offset + size <= len(head) or len(head) == entry.size
            return head[offset : offset + size] if inside else self._read(entry.name, offset, size)

        try:
            StreamReader(read, entry.size, key, header=None, name=entry.name)
        except ObjectMissing:
            return None
        except DecryptionFailed:
            return f"'{entry.name}' does not open: it was altered, cut, or sealed under another key"
        return ""

    def _read(self, name: str, offset: int, size: int) -> bytes:
        return retry.retry(
            lambda: self.store.get(name, offset, size),
            on=(StoreUnavailable,),
            unless=(StoreFull,),
            within_s=self.patience_s,
            what=f"the store to give '{name}'",
            first_pause_s=0.1,
        )


def _count(proof: Proof, name: str, verdict: str | None) -> None:
    match verdict:
        case None:
            pass
        case "":
            proof.objects += 1
        case "shredded":
            proof.shredded += 1
        case "foreign":
            proof.foreign.append(name)
        case _:
            proof.failed.append((name, verdict))


def _chunks(store: ObjectStore) -> Iterator[list[ObjectInfo]]:
    every = (entry for entry in store.list() if entry.name != MARKER and not entry.name.startswith(_KEYS))
    while chunk := list(islice(every, _AT_ONCE)):
        yield chunk


def _others(keys: BackupKeys, targets: Targets, proof: Proof) -> None:
    """Count who still names which KEK: what has a newer wrap does not need the one that it replaces."""
    aimed, gone = set(), shredded(keys.store)
    for record in keys.records().values():
        if not isinstance(record, KeyRecord) or record.period in gone:
            continue
        for role in targets.holders:
            told = targets.told(role, record)
            aimed.add((told.kek, told.version))
        for wraps, newest in ((record.wraps, True), (record.older, False)):
            for wrap in wraps:
                if wrap.of_recipient or (wrap.kek, wrap.version) in aimed:
                    continue
                named = proof.others.setdefault(f"{wrap.kek} version {wrap.version}", Named())
                named.newest += newest
                named.older += not newest
    proof.keks = targets.keks
