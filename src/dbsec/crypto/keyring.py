"""Keys by reference: one KMS call a key and TTL, ciphers cached, nothing of it inherited by a fork."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from dbsec.clock import SYSTEM, Clock
from dbsec.crypto import dek as deks
from dbsec.crypto.binding import Field, label
from dbsec.crypto.column import Column
from dbsec.crypto.dek import Dek
from dbsec.crypto.errors import DecryptionFailed, KeyExhausted, KeyMissing, ModeRefused, Unbound
from dbsec.crypto.format import HEADER, KEY_BYTES, Algorithm, header_of
from dbsec.crypto.invocations import Invocations
from dbsec.crypto.lookup import Lookup
from dbsec.crypto.store import KeyRow, KeyState, KeyStore, NewKey, Purpose
from dbsec.errors import UsageError
from dbsec.kms import Kms, KmsError, KmsRefused, unwrap_many

if TYPE_CHECKING:
    from dbsec.crypto.value_cache import ValueCache

_LOG = logging.getLogger(__name__)
_STRIPES = 64
_MOST_GENERATIONS = 2**31 - 1
_ALIVE: weakref.WeakSet[Keyring] = weakref.WeakSet()
Place = tuple[str, Field]


class Profile(StrEnum):
    """``fips`` keeps to what a validated module offers: AES-GCM, HKDF, HMAC. AES-SIV is not in it."""

    STANDARD = "standard"
    FIPS = "fips"


@dataclass(slots=True)
class _Loaded:
    """An unwrapped key until ``expires``, and the caches that hold a cipher made from it."""

    row: KeyRow
    dek: Dek
    invocations: Invocations
    expires: float
    leased: int = 0
    ciphers: list[Column | Lookup] = field(default_factory=list)
    forget: list[Callable[[], object]] = field(default_factory=list)

    @property
    def hot(self) -> bool:
        """Tell whether one of its ciphers was used since the last time, and begin anew."""
        seen = any(cipher.hot for cipher in self.ciphers)
        for cipher in self.ciphers:
            cipher.hot = False
        return seen


class Keyring:
    """Gives the cipher of a column. Safe for threads; a forked child begins with empty caches.

    ``ttl`` is how long a key serves after it was unwrapped, also while the KMS is away, and how long a key that was
    retired, disabled or destroyed may serve here. ``max_keys`` bounds the cache: a key that was not used is dropped
    first. ``max_uses`` drops a key at the lease that follows that many encryptions of this process, whatever its age:
    leases grow from 4,096 on. What has expired leaves memory with the next key that comes in. Errors: ``UsageError``.
    """

    def __init__(
        self,
        store: KeyStore,
        kms: Kms,
        *,
        ttl: timedelta = timedelta(minutes=5),
        max_keys: int = 10_000,
        max_uses: int | None = None,
        profile: Profile = Profile.STANDARD,
        clock: Clock = SYSTEM,
    ) -> None:
        if max_keys < 1 or ttl < timedelta():
            raise UsageError("a keyring caches one key at least, and for no negative time")
        self.profile = profile
        self._store = store
        self.kms = kms
        self._ttl_s = ttl.total_seconds()
        self._max_keys = max_keys
        self._max_uses = max_uses
        # each value asks for the time: without the detour through the port where that is the machine's
        self.now = time.monotonic if clock is SYSTEM else clock.monotonic
        self._values: weakref.WeakSet[ValueCache] = weakref.WeakSet()
        self.forget()
        _ALIVE.add(self)

    def forget(self) -> None:
        """Drop every cached key: the next use of each asks store and KMS again. Also what a fork does to its child."""
        # first: a key that is on its way in sees another dict, and neither it nor a cipher made from it is kept
        self._keys: dict[int, _Loaded] = {}
        self._resting: dict[int, Invocations] = {}
        self.writers: dict[Place, Column] = {}
        self.readers: dict[tuple[str, Field, bytes], Column] = {}
        self._lookups: dict[tuple[str, Field, int], Lookup] = {}
        self._lookup_readers: dict[tuple[str, Field, bytes], Lookup] = {}
        self._sweep_at = self.now() + self._ttl_s
        self._guard = threading.Lock()
        self._loading = [threading.Lock() for _ in range(_STRIPES)]
        for cache in self._values:
            cache.clear()

    def forgets(self, cache: ValueCache) -> None:
        """Empty a cache of decrypted values, too, whenever the keys are forgotten."""
        self._values.add(cache)

    def __repr__(self) -> str:
        return f"<keyring of {len(self._keys)} cached keys>"

    # --- what encrypts

    def writer(self, tenant: str, place: Field) -> Column:
        """Return the cipher that writes; a first key is made where there is none.

        Errors: ``KmsError``; ``ConnectError``; ``KeyMissing`` where the active key can no longer be unwrapped, or where
        there were keys and none is active.
        """
        check(tenant, place)
        with self._stripe(tenant, place.context):
            found = self.writers.get((tenant, place))
            if found is None or found.expires <= self.now():
                loaded = self._active(tenant, place)
                found = self._column(loaded, place)
                self._keep(loaded, self.writers, (tenant, place), found)
            return found

    def refused(self, column: Column, tenant: str) -> Column:
        """Return the writer that has taken over from one whose lease was refused. Errors: ``KeyExhausted``."""
        with self._guard:
            self._forget_key(column.key_id)
        successor = self.writer(tenant, column.field)
        if successor.key_id == column.key_id:
            raise KeyExhausted(
                f"key {column.key_id} of '{column.field.context}' has encrypted 2^32 values: no more under it",
                hint=f"dbsec crypto rotate-dek --context {column.field.context}",
            )
        return successor

    # --- what decrypts

    def reader(self, tenant: str, place: Field, header: bytes) -> Column:
        """Return the cipher of a value's header. Errors: ``DecryptionFailed``; ``KmsUnavailable``; ``ConnectError``."""
        loaded = self._of_header(tenant, place, header, Purpose.DATA)
        found = self._column(loaded, place)
        if found.header != header:
            raise DecryptionFailed(str(place), key_id=loaded.row.id)
        self._keep(loaded, self.readers, (tenant, place, header), found)
        return found

    def lookup_reader(self, tenant: str, place: Field, header: bytes) -> Lookup:
        """Return the key of a deterministic value. Errors: those of ``reader``."""
        cached = self._lookup_readers.get((tenant, place, header))
        if cached is not None and cached.expires > self.now():
            cached.hot = True
            return cached
        loaded = self._of_header(tenant, place, header, Purpose.LOOKUP)
        found = self._lookup(loaded, place)
        self._keep(loaded, self._lookup_readers, (tenant, place, header), found)
        return found

    def prefetch(self, tenant: str, place: Field, ids: Iterable[int]) -> None:
        """Unwrap many keys of a tenant in as few calls as the KMS takes; what fails is left to its first use."""
        check(tenant, place)
        known = self._keys
        wanted = [key_id for key_id in set(ids) if not self._cached(key_id)]
        if len(wanted) < 2:
            return
        found = [row for row in self._store.by_ids(wanted) if (row.tenant, row.context) == (tenant, place.context)]
        rows = [row for row in found if row.state is not KeyState.DESTROYED]
        opened = unwrap_many(self.kms, [(row.wrapped, row.aad) for row in rows])
        for row, dek in zip(rows, opened, strict=True):
            if not isinstance(dek, KmsError):
                with suppress(KeyMissing):
                    self._admit(row, dek, known)

    # --- what encrypts more than columns

    def subkey(self, tenant: str, place: Field, purpose: bytes, key_id: int | None = None) -> tuple[int, bytes]:
        """Return a key's id and its subkey for a purpose: of the key that writes, or of one that a header names.

        Errors: those of ``writer``; where ``key_id`` is given those of ``reader``.
        """
        if key_id is None:
            check(tenant, place)
            with self._stripe(tenant, place.context):
                loaded = self._active(tenant, place)
        else:
            loaded = self._of_header(tenant, place, header_of(Algorithm.AES_256_GCM, key_id), Purpose.DATA)
        return loaded.row.id, loaded.dek.subkey(label(purpose, tenant, place))

    # --- what finds

    def lookup(self, tenant: str, place: Field, generation: int) -> Lookup:
        """Return the lookup key of a generation; one that nobody has made yet is made.

        Errors: those of ``writer``.
        """
        cached = self._lookups.get((tenant, place, generation))
        if cached is not None and cached.expires > self.now():
            cached.hot = True
            return cached
        check(tenant, place)
        if not 1 <= generation <= _MOST_GENERATIONS:
            raise ModeRefused(f"'{place}' has no generation {generation}: they begin with 1")
        with self._stripe(tenant, place.context):
            row = self._store.of_generation(tenant, place.context, Purpose.LOOKUP, generation)
            loaded = self._load(row or self._create(tenant, place.context, Purpose.LOOKUP, generation))
            found = self._lookup(loaded, place)
            self._keep(loaded, self._lookups, (tenant, place, generation), found)
            return found

    def allow_deterministic(self, place: Field) -> None:
        """Errors: ``ModeRefused`` in the FIPS profile."""
        if self.profile is Profile.FIPS:
            raise ModeRefused(
                f"'{place}' is deterministic, and AES-SIV is not in OpenSSL's FIPS provider",
                hint="in the FIPS profile: randomised, with a blind index",
            )

    # --- keys

    def _create(self, tenant: str, context: str, purpose: Purpose, generation: int) -> KeyRow:
        return self._store.add(new_key(self.kms, tenant, context, purpose, generation))

    def _active(self, tenant: str, place: Field) -> _Loaded:
        row = self._store.active(tenant, place.context, Purpose.DATA)
        row = row or self._create(tenant, place.context, Purpose.DATA, 1)
        if row.state is not KeyState.ACTIVE:
            raise KeyMissing(
                f"no key of '{place.context}' is active: key {row.id} is {row.state}",
                hint=f"dbsec crypto rotate-dek --context {place.context}",
            )
        return self._load(row)

    def _of_header(self, tenant: str, place: Field, header: bytes, purpose: Purpose) -> _Loaded:
        """Find the key that a header names; that of another tenant or table is as unknown as one that never was."""
        check(tenant, place)
        key_id = HEADER.unpack(header)[2]
        with self._stripe(key_id):
            loaded = self._cached(key_id)
            if loaded is None:
                rows = self._store.by_ids([key_id])
                if not rows or not _is_of(rows[0], tenant, place, purpose):
                    raise DecryptionFailed(str(place), key_id=key_id)
                try:
                    loaded = self._load(rows[0])
                except (KmsRefused, KeyMissing) as exc:
                    _LOG.info("key %d of '%s' cannot be used: %s", key_id, place.context, exc)
                    raise DecryptionFailed(str(place), key_id=key_id) from None  # the cause is for the log alone
        if not _is_of(loaded.row, tenant, place, purpose):
            raise DecryptionFailed(str(place), key_id=key_id)
        return loaded

    def _load(self, row: KeyRow) -> _Loaded:
        """Unwrap. Errors: ``KmsError``; ``KeyMissing`` for one that was destroyed, or not the one committed to."""
        found = self._cached(row.id)
        if found is not None:
            found.row = row
            return found
        if row.state is KeyState.DESTROYED:
            raise KeyMissing(f"key {row.id} of '{row.context}' was destroyed", hint="dbsec crypto keys")
        known = self._keys
        return self._admit(row, self.kms.unwrap(row.wrapped, row.aad), known)

    def _admit(self, row: KeyRow, unwrapped: bytearray, known: dict[int, _Loaded]) -> _Loaded:
        """Keep a key, unless ``forget`` came while it was unwrapped: ``known`` are the keys that there were before."""
        if len(unwrapped) != KEY_BYTES or len(row.salt) != KEY_BYTES:  # to HMAC, a salt and zeros are that salt
            deks.erase(unwrapped)
            raise KeyMissing(f"key {row.id} of '{row.context}' is no DEK", hint="dbsec crypto keys")
        dek = Dek(unwrapped, row.salt)
        if not dek.keeps(row.commitment):
            raise KeyMissing(f"key {row.id} of '{row.context}' is not the one committed to", hint="dbsec crypto keys")
        loaded = _Loaded(row, dek, self._invocations(row.id), self.now() + self._ttl_s)
        with self._guard:
            if self._keys is known:
                self._forget_key(row.id)  # another thread's, unwrapped at the same time: its ciphers would be untracked
                self._make_room()
                known[row.id] = loaded
        return loaded

    def _invocations(self, key_id: int) -> Invocations:
        return self._resting.pop(key_id, None) or Invocations(lambda count: self._lease(key_id, count))

    def _lease(self, key_id: int, count: int) -> bool:
        loaded = self._keys.get(key_id)
        if loaded is not None and self._max_uses is not None:
            if loaded.leased >= self._max_uses:
                self._drop(loaded)
            loaded.leased += count
        return self._store.lease(key_id, count)

    def _cached(self, key_id: int) -> _Loaded | None:
        found = self._keys.get(key_id)
        if found is not None and found.expires <= self.now():
            with self._guard:
                if self._keys.get(key_id) is found:
                    self._expire(found)
            return None
        return found

    def _make_room(self) -> None:
        """Drop what has expired, then what was not used since the last look, then the oldest."""
        now = self.now()
        if len(self._keys) < self._max_keys and now < self._sweep_at:
            return
        self._sweep_at = now + self._ttl_s
        for expired in [loaded for loaded in self._keys.values() if loaded.expires <= now]:
            self._expire(expired)
        if len(self._keys) >= self._max_keys:
            cold = (key_id for key_id, loaded in self._keys.items() if not loaded.hot)
            self._forget_key(next(cold, next(iter(self._keys))))

    def _drop(self, loaded: _Loaded) -> None:
        with self._guard:
            if self._keys.get(loaded.row.id) is loaded:
                self._forget_key(loaded.row.id)

    def _expire(self, loaded: _Loaded) -> None:
        """Forget a key but for what is left of its lease: a lease for each TTL would use the key up, unused."""
        self._forget_key(loaded.row.id)
        if loaded.invocations.left:
            self._resting[loaded.row.id] = loaded.invocations
        if len(self._resting) > self._max_keys:
            self._resting.pop(next(iter(self._resting)), None)

    def _forget_key(self, key_id: int) -> None:
        loaded = self._keys.pop(key_id, None)
        for forget in loaded.forget if loaded else ():
            forget()

    def _column(self, loaded: _Loaded, place: Field) -> Column:
        row = loaded.row
        return Column(loaded.dek, row.id, place, row.tenant, loaded.invocations, expires=loaded.expires)

    def _lookup(self, loaded: _Loaded, place: Field) -> Lookup:
        return Lookup(loaded.dek, loaded.row.id, place, loaded.row.tenant, expires=loaded.expires)

    def _keep(self, loaded: _Loaded, cache: dict[K, C], key: K, cipher: C) -> None:
        """Cache a cipher for as long as its key is cached; one whose key was dropped meanwhile is used this once."""
        with self._guard:
            if self._keys.get(loaded.row.id) is loaded:
                cache[key] = cipher
                loaded.ciphers.append(cipher)
                loaded.forget.append(lambda: cache.pop(key, None))

    def _stripe(self, *what: object) -> threading.Lock:
        return self._loading[hash(what) % _STRIPES]


K = TypeVar("K")
C = TypeVar("C", Column, Lookup)


def new_key(kms: Kms, tenant: str, context: str, purpose: Purpose, generation: int) -> NewKey:
    """Draw a DEK, wrap it, and commit to it; as bytes it exists only in here. Errors: ``KmsError``."""
    salt = os.urandom(KEY_BYTES)
    blank = NewKey(tenant, context, purpose, generation, b"", "", "", b"", salt)
    dek = deks.fresh()
    try:
        wrapped = kms.wrap(dek, blank.aad)
        told = kms.describe(blank.aad)
        commitment = Dek(dek, salt).commitment()
    finally:
        deks.erase(dek)
    return NewKey(tenant, context, purpose, generation, wrapped, told.kek, told.version, commitment, salt)


def _is_of(row: KeyRow, tenant: str, place: Field, purpose: Purpose) -> bool:
    return (row.tenant, row.context, row.purpose) == (tenant, place.context, purpose)


def check(tenant: str, place: Field) -> None:
    """Errors: ``Unbound`` for what is no tenant or no field."""
    if not isinstance(tenant, str):
        raise Unbound(f"the tenant of '{place}' is text, not {type(tenant).__name__}", hint="str(tenant_id)")
    if "\0" in tenant or tenant.encode(errors="ignore").decode() != tenant:
        raise Unbound(f"the tenant of '{place}' is no text that a database keeps", hint="str(tenant_id)")
    if not place.context or not place.column:
        raise Unbound("a field has a context and a column", hint='Field("app.users", "phone")')


def _after_fork() -> None:
    for keyring in _ALIVE:
        keyring.forget()


os.register_at_fork(after_in_child=_after_fork)
