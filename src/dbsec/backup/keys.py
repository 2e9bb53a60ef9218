"""The keys of a repository: epoch keys, each wrapped for a KMS, its escrow or a recipient, in objects that only add.

An epoch is one base backup, or a day of WAL. A rewrap does not change an epoch's object: it adds a page of newer wraps.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dbsec.backup.errors import BackupError, KeyUnavailable
from dbsec.backup.key_opening import Opening
from dbsec.backup.key_records import (
    CONTENT,
    EPOCHS,
    ESCROW,
    FORMAT,
    MAGIC,
    PRIMARY,
    RECIPIENTS,
    REWRAPS,
    KeyRecord,
    Wrap,
    epoch_name,
    epoch_proof,
    page_bytes,
    parse_page,
    period_of,
    wrap_aad,
)
from dbsec.backup.recipients import Recipient
from dbsec.backup.rewraps import Rewraps, read_all
from dbsec.clock import SYSTEM, Clock, rfc3339
from dbsec.crypto.format import KEY_BYTES
from dbsec.errors import DbsecError
from dbsec.kms import Kms
from dbsec.store import ObjectExists, ObjectMissing, ObjectStore

__all__ = [
    "CONTENT",
    "EPOCHS",
    "ESCROW",
    "FORMAT",
    "MAGIC",
    "PRIMARY",
    "RECIPIENTS",
    "REWRAPS",
    "BackupKeys",
    "Epoch",
    "KeyRecord",
    "Wrap",
    "page_bytes",
    "parse_page",
    "period_of",
    "wrap_aad",
]


@dataclass(frozen=True, slots=True)
class Epoch:
    """A key that seals now, and its name."""

    id: str
    key: bytes = field(repr=False)


class BackupKeys:
    """The keys of one repository; safe in threads.

    ``kms`` and ``escrow`` wrap new keys and open old ones. With ``recipient`` epochs are wrapped for it alone, and a
    ``kms`` is then only needed to read; ``content`` is the content key, by which such a host vouches for its epochs.
    Errors of its use: ``KeyUnavailable``; ``KmsError``; those of the store.
    """

    def __init__(
        self,
        store: ObjectStore,
        system: int,
        *,
        kms: Kms | None = None,
        escrow: Kms | None = None,
        recipient: Recipient | None = None,
        content: bytes | None = None,
        serves: timedelta = timedelta(hours=24),
        clock: Clock = SYSTEM,
    ) -> None:
        self.store = store
        self.system = system
        self.kms = kms
        self.escrow = escrow
        self.recipient = recipient
        self.rewraps = Rewraps(store)
        self._content = content
        self._serves = serves
        self._clock = clock
        self._lock = threading.RLock()
        self._opened: dict[str, bytes] = {}
        self._current: tuple[Epoch, datetime] | None = None

    @property
    def reads(self) -> bool:
        """Tell whether this host may open what is sealed: a write-only one has a recipient and no KMS."""
        return self.kms is not None or self.escrow is not None

    def under(self, *, kms: Kms | None, escrow: Kms | None = None) -> BackupKeys:
        """Return the same keys for other holders, with nothing opened yet."""
        return BackupKeys(self.store, self.system, kms=kms, escrow=escrow, serves=self._serves, clock=self._clock)

    def content(self) -> bytes:
        """Return the key that content is compared by. Errors: those of ``opened``."""
        return self._content if self._content is not None else self.opened(CONTENT)

    def begin(self) -> Epoch:
        """Make an epoch of its own; it is durable in the store before it seals anything."""
        now = self._clock.now()
        epoch = f"{now:%Y%m%dT%H%M%SZ}-{os.urandom(4).hex()}"
        key = os.urandom(KEY_BYTES)
        self.create(epoch_name(epoch), key)
        if self.reads:  # who takes over a host that only writes finds the key that seals now, and no other
            with self._lock:
                self._opened[epoch_name(epoch)] = key
        return Epoch(epoch, key)

    def current(self) -> Epoch:
        """Return the epoch of WAL: the one of this process, or the newest that may still serve; else a new one.

        None serves past its month, or to shred a month would take WAL of the next one along.
        """
        with self._lock:
            now = self._clock.now()
            if self._current is None or not self._serves_at(now, self._current[1]):
                found = self._newest(now) if self.reads and self.recipient is None else None
                self._current = found or (self.begin(), now)
            return self._current[0]

    def key(self, epoch: str) -> bytes:
        """Open the key of an epoch. Errors: ``KeyUnavailable``, ``Tampered``."""
        return self.opened(epoch_name(epoch))

    def opened(self, name: str) -> bytes:
        """Open a key by the name of its object; it is opened once. Errors: ``KeyUnavailable``, ``Tampered``."""
        with self._lock:
            if name not in self._opened:
                try:
                    self._opened[name] = self.open(self.record(name))
                except KeyUnavailable as exc:
                    # a process that outlives a rekey finds the new wraps here
                    if not exc.refused or not self.rewraps.refresh():
                        raise
                    self._opened[name] = self.open(self.record(name))
            return self._opened[name]

    def create(self, name: str, key: bytes) -> KeyRecord:
        """Wrap a key for every holder and put its object. Errors: ``ObjectExists``; ``KmsError``: nothing is put."""
        proof = epoch_proof(self.content(), name, self.system, key) if self._for_recipient(name) else ""
        wraps = tuple(self.wraps_of(name, key))
        record = KeyRecord(name, self.system, rfc3339(self._clock.now()), wraps, proof=proof)
        try:
            self.store.put(name, record.raw())
        except ObjectExists:
            if self.store.get(name) != record.raw():  # else an earlier try of ours, whose answer was lost
                raise
        return record

    def wraps_of(self, name: str, key: bytes) -> list[Wrap]:
        """Wrap an epoch for the recipient, others for KMS and escrow. Errors: ``BackupError`` where there is none."""
        if self.recipient is not None and self._for_recipient(name):
            return [Wrap(self.recipient.holder, self.recipient.holder, "1", self.recipient.encrypt(key, name))]
        holders = self.holders()
        if not holders:
            raise BackupError("no key: neither a KMS nor a recipient is configured", hint="[backup] kms = ...")
        aad = wrap_aad(name, self.system)
        wraps = []
        for role, kms in holders.items():
            told = kms.describe(aad)
            wraps.append(Wrap(role, told.kek, told.version, kms.wrap(key, aad)))
        return wraps

    def holders(self) -> dict[str, Kms]:
        """Return who wraps, by role."""
        return {role: kms for role, kms in ((PRIMARY, self.kms), (ESCROW, self.escrow)) if kms is not None}

    def record(self, name: str) -> KeyRecord:
        """Read a key's object with its newest wraps. Errors: ``Tampered``, ``KeyUnavailable`` where it is gone."""
        try:
            return self._with_newer(KeyRecord.parse(name, self.store.get(name)))
        except ObjectMissing as exc:
            raise KeyUnavailable(f"the key '{name}' is not in the store", refused=True) from exc

    def records(self) -> dict[str, KeyRecord | DbsecError]:
        """Read every key's object at once: content key, recipients, then epochs by age; or what is wrong with it."""
        names = [e.name for prefix in (CONTENT, RECIPIENTS, EPOCHS) for e in self.store.list(prefix)]
        found: dict[str, KeyRecord | DbsecError] = {}
        for name, raw in read_all(self.store, names):
            try:
                found[name] = self._with_newer(KeyRecord.parse(name, raw or b""))
            except DbsecError as exc:
                found[name] = exc
        return found

    def open(self, record: KeyRecord) -> bytes:
        """Open a key by whichever holder we can ask. Errors: ``KeyUnavailable``, ``Tampered``, ``NewerFormat``."""
        opened = self.open_many([record])[record.name]
        if isinstance(opened, DbsecError):
            raise opened
        return opened

    def open_many(self, records: Iterable[KeyRecord]) -> dict[str, bytes | DbsecError]:
        """Open many keys in as few calls of the KMS as it takes; what failed stands where the key would."""
        return Opening(self).open_many(records)

    def _with_newer(self, record: KeyRecord) -> KeyRecord:
        newest, older = self.rewraps.of(record.name)
        if not newest:
            return record
        kept = (*older, *record.wraps)
        return KeyRecord(record.name, record.system, record.created, newest, kept, record.proof)

    def _newest(self, now: datetime) -> tuple[Epoch, datetime] | None:
        """Find an epoch that another process has begun a short time ago, so that none is made for each segment."""
        since = now - self._serves
        names = [entry.name for entry in self.store.list(EPOCHS, f"{EPOCHS}{since:%Y%m%dT%H%M%SZ}")]
        for name in reversed(names):
            stem = name.removeprefix(EPOCHS).removesuffix(".json")
            began = datetime.strptime(f"{stem[:15]}+0000", "%Y%m%dT%H%M%S%z")
            if not self._serves_at(now, began):
                continue
            record = self.record(name)
            if {wrap.holder for wrap in record.wraps} != set(self.holders()):
                continue
            try:
                return Epoch(stem, self.key(stem)), began
            except KeyUnavailable as exc:  # under a KEK from before a rekey: it is not what seals from now on
                if not exc.refused:
                    raise
        return None

    def _serves_at(self, now: datetime, began: datetime) -> bool:
        """Tell whether an epoch serves; one that begins later is of a clock that jumped."""
        return timedelta() <= now - began < self._serves and f"{now:%Y%m}" == f"{began:%Y%m}"

    def _for_recipient(self, name: str) -> bool:
        return self.recipient is not None and name.startswith(EPOCHS)
