"""What lies in a repository's ``base/``: finished backups, what was never finished, what cannot be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from dbsec.backup import catalog
from dbsec.backup.catalog import Backup
from dbsec.backup.errors import KeyUnavailable, Tampered
from dbsec.backup.repository import Repository
from dbsec.errors import NewerFormat


class State(StrEnum):
    """``unfinished``: it has no description, and is none. ``unreadable``: it has one that does not open."""

    FINISHED = "finished"
    UNFINISHED = "unfinished"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Entry:
    """One id. ``backup`` is there where it is finished; ``why`` where it is unreadable.

    ``objects``, ``stored_bytes`` and ``newest`` are of an unfinished one, as the store lists it: whoever is taking it
    now adds to them.
    """

    id: str
    state: State
    backup: Backup | None = None
    why: str = ""
    objects: int = 0
    stored_bytes: int = 0
    newest: datetime | None = None


def entries(repository: Repository) -> list[Entry]:
    """Return all that was begun, oldest first. Errors: those of the store; ``KeyUnavailable`` where no KMS answers."""
    return [entry_of(repository, id, finished=finished) for id, finished in catalog.ids(repository).items()]


def entry_of(repository: Repository, id: str, *, finished: bool) -> Entry:
    """Look at one id."""
    if not finished:
        return _unfinished(repository, id)
    try:
        return Entry(id, State.FINISHED, catalog.get_backup(repository, id))
    except (Tampered, NewerFormat, KeyUnavailable) as exc:
        if isinstance(exc, KeyUnavailable) and not exc.refused:
            raise
        return Entry(id, State.UNREADABLE, why=exc.message)


def depth(backup: Backup, known: Mapping[str, Backup]) -> int | None:
    """Count the backups that one builds on: 0 for a full one; None where a link of its chain is not ``known``."""
    steps = 0
    while backup.parent:
        if backup.parent not in known or steps > len(known):
            return None
        backup = known[backup.parent]
        steps += 1
    return steps


def children(backup: Backup, others: Sequence[Backup]) -> list[str]:
    """Return the ids of those that build on one directly."""
    return [other.id for other in others if other.parent == backup.id]


def _unfinished(repository: Repository, id: str) -> Entry:
    found = list(repository.list(f"{catalog.BASE}{id}/"))
    newest = max((one.modified for one in found), default=None)
    size = sum(one.size for one in found)
    return Entry(id, State.UNFINISHED, objects=len(found), stored_bytes=size, newest=newest)
