"""What keys a repository has, who holds each, and how old it is; nothing is opened for that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from dbsec.backup.key_notes import shredded
from dbsec.backup.key_records import EPOCHS, KeyRecord
from dbsec.backup.keys import BackupKeys
from dbsec.clock import SYSTEM, Clock


@dataclass(frozen=True, slots=True)
class Held:
    """One holder of a key."""

    holder: str
    kek: str
    version: str


@dataclass(frozen=True, slots=True)
class State:
    """One key: ``name`` is its object's, ``held`` its newest wraps, ``older`` the number of those that they replace."""

    name: str
    period: str
    created: datetime
    age: timedelta
    held: tuple[Held, ...]
    older: int
    shredded: bool

    @property
    def is_epoch(self) -> bool:
        return self.name.startswith(EPOCHS)


@dataclass(frozen=True, slots=True)
class States:
    """All keys; ``bad`` are objects that are none, with the reason."""

    keys: tuple[State, ...]
    bad: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The epochs that one version of a KEK holds; ``holder`` "" stands for months that were shredded."""

    held: Held
    epochs: int
    oldest: datetime
    newest: datetime


def states(keys: BackupKeys, *, clock: Clock = SYSTEM) -> States:
    """Read the state of every key. Errors: those of the store."""
    now, gone = clock.now(), shredded(keys.store)
    found, bad = [], []
    for name, record in keys.records().items():
        if not isinstance(record, KeyRecord):
            bad.append((name, str(record)))
            continue
        held = tuple(Held(wrap.holder, wrap.kek, wrap.version) for wrap in record.wraps)
        created = record.created_at
        found.append(State(name, record.period, created, now - created, held, len(record.older), record.period in gone))
    bad += [(name, str(exc)) for name, exc in keys.rewraps.trouble.items()]
    return States(tuple(found), tuple(bad))


def groups(keys: Iterable[State]) -> list[Group]:
    """Count epochs by holder, KEK and version."""
    by: dict[Held, list[datetime]] = {}
    for key in keys:
        if key.is_epoch:
            for held in (Held("", "shredded", ""),) if key.shredded else key.held:
                by.setdefault(held, []).append(key.created)
    ordered = sorted(by.items(), key=lambda pair: (pair[0].holder, pair[0].kek, pair[0].version))
    return [Group(held, len(times), min(times), max(times)) for held, times in ordered]
