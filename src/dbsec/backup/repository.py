"""One cluster's repository: sealed objects that are put once, read whole and proven, and no plaintext path.

::

    repository.json                          whose it is: written once, by ``init``
    keys/content.json                        the key of content HMACs, wrapped
    keys/epochs/EPOCH.json                   a wrapped epoch key; keys/rewraps/… newer wraps, keys/recipients/…
    wal/TIMELINE/LOG/SEGMENT                 a segment; wal/pieces/TIMELINE/SEGMENT/FROM-TO parts streamed before it
    wal/history/NAME                         .history, .backup and .partial files
    base/BACKUP/data/N  manifest/N  backup   a base backup; without its last object it is none
    notes/…                                  tombstones, witnesses, proofs
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from dbsec import canonical
from dbsec.backup import sealed
from dbsec.backup.codec import Codec
from dbsec.backup.errors import ContentConflict, NoRepository, Tampered, WrongCluster
from dbsec.backup.keys import BackupKeys, Epoch
from dbsec.backup.sealed import Header, Kind
from dbsec.clock import SYSTEM, Clock, rfc3339
from dbsec.errors import NewerFormat
from dbsec.retry import retry
from dbsec.store import ObjectExists, ObjectInfo, ObjectMissing, ObjectStore, StoreFull, StoreUnavailable

T = TypeVar("T")

MARKER: Final = "repository.json"
MAGIC: Final = "dbsec-backup"
FORMAT: Final = 1
ROLES: Final = {
    "wal/pieces/": Kind.PIECE,
    "wal/history/": Kind.HISTORY,
    "wal/": Kind.WAL,
    "notes/": Kind.NOTE,
}
_BASE: Final = {"data": Kind.DATA, "manifest": Kind.MANIFEST, "backup": Kind.BACKUP}


@dataclass(frozen=True, slots=True)
class Put:
    """What a put has done; ``fresh`` is False where the same content was there already."""

    name: str
    stored_bytes: int
    fresh: bool
    content: str


class Repository:
    """Puts and gets sealed objects; safe in threads.

    ``content_key`` is what a host compares content by. ``patience_s``: how long a store that does not answer is asked.
    """

    def __init__(
        self,
        store: ObjectStore,
        system: int,
        keys: BackupKeys,
        content_key: bytes,
        *,
        patience_s: float = 30.0,
        clock: Clock = SYSTEM,
    ) -> None:
        self.store = store
        self.system = system
        self.keys = keys
        self._content_key = content_key
        self._patience_s = patience_s
        self._clock = clock

    def put(
        self,
        name: str,
        plain: bytes | memoryview,
        *,
        timeline: int = 0,
        codec: Codec = Codec.ZSTD,
        epoch: Epoch | None = None,
    ) -> Put:
        """Seal and create an object of at most 64 MiB; the store has acknowledged it when this returns.

        The same content under the same name is no error, and nothing is written then.
        Errors: ``ContentConflict``; ``GaveUp`` where the store does not answer; ``StoreRefused``, ``StoreFull``; those
        of ``BackupKeys``: without a key nothing is put.
        """
        epoch = epoch or self.keys.current()
        content = sealed.content_mac(self._content_key, name, plain)
        header = Header(
            system=self.system,
            timeline=timeline,
            kind=kind_of(name),
            name=name,
            epoch=epoch.id,
            codec=codec,
            plain_bytes=len(plain),
            content=content,
            created=rfc3339(self._clock.now()),
        )
        raw = sealed.seal(header, plain, epoch.key)
        try:
            self._patiently(lambda: self.store.put(name, raw), f"the store to take '{name}'")
        except ObjectExists as exc:
            if not self._same(name, content):
                raise ContentConflict(name) from exc
            return Put(name, len(raw), fresh=False, content=content)
        return Put(name, len(raw), fresh=True, content=content)

    def has(self, name: str, plain: bytes) -> bool:
        """Tell whether an object has this content, so that it need not be sealed. Errors: ``ContentConflict``."""
        try:
            if self._same(name, sealed.content_mac(self._content_key, name, plain)):
                return True
        except ObjectMissing:
            return False
        raise ContentConflict(name)

    def get(self, name: str) -> bytes:
        """Return the plaintext of an object, proven. Errors: ``ObjectMissing``, ``Tampered``, ``KeyUnavailable``."""
        return self.unseal(name, self.raw(name))[1]

    def raw(self, name: str) -> bytes:
        """Read an object as it lies in the store. Errors: ``ObjectMissing``, ``GaveUp``."""
        return self._patiently(lambda: self.store.get(name), f"the store to give '{name}'")

    def unseal(self, name: str, raw: bytes) -> tuple[Header, bytes]:
        """Open the bytes of an object. Errors: ``Tampered``, ``KeyUnavailable``."""
        header = sealed.read_header(name, raw[: sealed.MOST_PRELUDE_BYTES])
        sealed.check(header, name, system=self.system, kind=kind_of(name))
        return sealed.unseal(name, raw, self.keys.key(header.epoch), system=self.system, kind=kind_of(name))

    def pieces(self, name: str) -> tuple[Header, Iterator[bytes]]:
        """Return header and plaintext of an object in pieces of at most 1 MiB; all was proven before the first.

        Errors: those of ``get``.
        """
        raw = self.raw(name)
        header = sealed.read_header(name, raw[: sealed.MOST_PRELUDE_BYTES])
        sealed.check(header, name, system=self.system, kind=kind_of(name))
        key = self.keys.key(header.epoch)
        header, frames = sealed.unseal_frames(name, raw, key, system=self.system, kind=kind_of(name))
        return header, header.codec.pieces(name, frames, header.plain_bytes)

    def header(self, name: str) -> Header:
        """Read what an object claims of itself, unproven. Errors: ``ObjectMissing``, ``Tampered``."""
        size = sealed.MOST_PRELUDE_BYTES
        raw = self._patiently(lambda: self.store.get(name, 0, size), f"the store to give '{name}'")
        return sealed.read_header(name, raw)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """Yield objects in the order of their names. Errors: ``StoreUnavailable``, ``StoreRefused``."""
        return self.store.list(prefix, after)

    def _same(self, name: str, content: str) -> bool:
        try:
            header = self.header(name)
            sealed.check(header, name, system=self.system, kind=kind_of(name))
        except Tampered:
            return False
        return hmac.compare_digest(header.content, content)

    def _patiently(self, act: Callable[[], T], what: str) -> T:
        return retry(
            act,
            on=(StoreUnavailable,),
            unless=(StoreFull,),
            within_s=self._patience_s,
            what=what,
            first_pause_s=0.1,
            clock=self._clock,
        )


def kind_of(name: str) -> Kind:
    """Return the kind that an object of this name must have. Errors: ``ValueError``."""
    for prefix, kind in ROLES.items():
        if name.startswith(prefix):
            return kind
    parts = name.split("/")
    if parts[0] == "base" and len(parts) > 2 and parts[2] in _BASE:
        return _BASE[parts[2]]
    raise ValueError(f"'{name}' is no object of a repository")


def marker_bytes(system: int, *, segment_bytes: int, clock: Clock = SYSTEM) -> bytes:
    """Return the bytes of ``repository.json``."""
    body = {"magic": MAGIC, "format": FORMAT, "system": system, "segment_bytes": segment_bytes}
    return canonical.json_bytes({**body, "created": rfc3339(clock.now())})


@dataclass(frozen=True, slots=True)
class Marker:
    """Whose repository it is; ``segment_bytes`` is the size of the cluster's WAL segments."""

    system: int
    segment_bytes: int
    created: str


def read_marker(store: ObjectStore) -> Marker:
    """Read ``repository.json``. Errors: ``NoRepository``, ``Tampered``, ``NewerFormat``."""
    try:
        told = json.loads(store.get(MARKER))
        if told["magic"] == MAGIC and told["format"] > FORMAT:
            raise NewerFormat(f"'{MARKER}'", found=told["format"], known=FORMAT)
        return Marker(int(told["system"]), int(told["segment_bytes"]), str(told["created"]))
    except ObjectMissing as exc:
        raise NoRepository("there is no repository of dbsec at this place", hint="dbsec backup init") from exc
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise Tampered(MARKER, "it is none of ours") from exc


def check_cluster(marker: Marker, system: int) -> None:
    """Refuse a server that is not the repository's. Errors: ``WrongCluster``."""
    if marker.system != system:
        raise WrongCluster(
            f"the repository is of the cluster {marker.system}, and this server is {system}",
            hint="give each cluster a prefix of its own",
        )
