"""Tries what backups rely on in a store, with small objects of its own: what a store says of itself is no proof."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from dbsec.clock import SYSTEM, Clock
from dbsec.evidence import Outcome
from dbsec.store.bucket import Bucket
from dbsec.store.errors import ObjectExists, ObjectMissing, StoreError, StoreRefused, StoreUnavailable
from dbsec.store.port import ObjectStore

PROBES: Final = "probes/"
_SKEW: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Trait:
    """Something that was tried. ``needed``: without it no backup may go there; else it is to be known."""

    name: str
    outcome: Outcome
    said: str
    needed: bool = False

    @property
    def refused(self) -> bool:
        return self.needed and self.outcome is Outcome.FAIL


def probe(store: ObjectStore, *, clock: Clock = SYSTEM) -> tuple[Trait, ...]:
    """Try a store below ``probes/``, which is empty again where it can be.

    Errors: ``StoreError`` where it cannot be written at all: that says nothing of the rest.
    """
    folder = f"{PROBES}{os.urandom(8).hex()}/"
    names = [f"{folder}{part}" for part in ("a/b", "a/c", "b/a", "c")]
    first = os.urandom(64)
    for name in reversed(names):
        with suppress(ObjectExists):  # by an earlier try of ours, whose answer was lost: nobody else has the name
            store.put(name, first)
    needed: tuple[tuple[str, Callable[[], str]], ...] = (
        ("create only", lambda: _overwrites(store, names[1])),
        ("read after write", lambda: _loses(store, names[1], first)),
        ("part of an object", lambda: "" if store.get(names[1], 10, 20) == first[10:30] else "it gives other bytes"),
        ("list after write", lambda: _hides(store, folder, names)),
        ("what is not there", lambda: _makes_up(store, f"{folder}never")),
    )
    traits = [_tried(name, act) for name, act in needed]
    return (*traits, _clock(store, names[0], clock), _deletion(store, names))


def traits_of(bucket: Bucket) -> tuple[Trait, ...]:
    """Tell what a bucket has said of versions and locks: they decide what expire can do, and what an attacker can."""
    if bucket.versioned is None:
        return (Trait("versions and locks", Outcome.ERROR, f"not known: {bucket.why}"),)
    kept = "a deleted object stays as a version, and is paid for, until a lifecycle rule of the bucket ends it"
    lost = "off: whoever may delete objects ends the backups"
    versions = Trait("versions", Outcome.PASS, kept) if bucket.versioned else Trait("versions", Outcome.FAIL, lost)
    if bucket.locks is None:
        return versions, Trait("object lock", Outcome.ERROR, f"not known: {bucket.why}")
    if not bucket.locks:
        return versions, Trait("object lock", Outcome.FAIL, "off: with the store's key backups can be destroyed")
    rule = bucket.retention or "no default: what is put is not locked until somebody locks it"
    return versions, Trait("object lock", Outcome.PASS if bucket.retention else Outcome.FAIL, rule)


def _tried(name: str, act: Callable[[], str]) -> Trait:
    try:
        wrong = act()
    except StoreUnavailable as exc:
        return Trait(name, Outcome.ERROR, f"could not be tried: {exc.message}", needed=True)
    except StoreError as exc:
        wrong = exc.message
    return Trait(name, Outcome.FAIL if wrong else Outcome.PASS, wrong or "holds", needed=True)


def _overwrites(store: ObjectStore, name: str) -> str:
    try:
        store.put(name, os.urandom(64))
    except ObjectExists:
        return ""
    return (
        "the store ignores If-None-Match: two servers would overwrite each other, and whoever may write could replace"
        " a backup"
    )


def _loses(store: ObjectStore, name: str, first: bytes) -> str:
    return "" if store.get(name) == first else "it gives back something else than it has acknowledged"


def _hides(store: ObjectStore, folder: str, names: list[str]) -> str:
    if [entry.name for entry in store.list(folder)] != names:
        return "it does not list, or not in order, what it has acknowledged: the end of an archive cannot be proven"
    # after an object, after all of a folder ("0" follows "/"), and before all of one: as backups ask
    asked = (store.list(f"{folder}a/", names[0]), store.list(folder, f"{folder}a0"), store.list(folder, f"{folder}b"))
    found = [[entry.name for entry in listed] for listed in asked]
    if found != [names[1:2], names[2:], names[2:]]:
        return "it does not list what comes after a name: the end of an archive cannot be proven"
    return ""


def _makes_up(store: ObjectStore, name: str) -> str:
    with suppress(ObjectMissing):
        store.get(name)
        return "it answers for an object that was never put"
    return ""


def _clock(store: ObjectStore, name: str, clock: Clock) -> Trait:
    try:
        apart = abs(store.head(name).modified - clock.now())
    except StoreError as exc:
        return Trait("clock", Outcome.ERROR, exc.message)
    seconds = apart.total_seconds()
    if apart > _SKEW:
        return Trait("clock", Outcome.FAIL, f"store and host differ by {seconds:,.0f} s: ages are not to be trusted")
    return Trait("clock", Outcome.PASS, "store and host agree within a minute")


def _deletion(store: ObjectStore, names: list[str]) -> Trait:
    try:
        for name in names:
            store.delete(name)
        if next(iter(store.list(names[-1].rpartition("/")[0] + "/")), None) is not None:
            return Trait("delete", Outcome.FAIL, "what was deleted is still listed")
    except StoreRefused as exc:
        return Trait("delete", Outcome.FAIL, f"refused ({exc.message}): what expires stays until its lock ends")
    except StoreError as exc:
        return Trait("delete", Outcome.ERROR, exc.message)
    return Trait("delete", Outcome.PASS, "holds")


def store_time(store: ObjectStore) -> datetime:
    """Return what time it is by the store's clock, from an object that is put and deleted. Errors: ``StoreError``."""
    name = f"{PROBES}{os.urandom(8).hex()}"
    store.put(name, b"")
    told = store.head(name).modified
    with suppress(StoreRefused):  # under a lock it stays: it is small
        store.delete(name)
    return told
