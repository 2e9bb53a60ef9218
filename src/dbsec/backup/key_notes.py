"""Records of what was done with keys, as sealed notes in the repository itself."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from dbsec import canonical
from dbsec.backup.errors import Tampered
from dbsec.backup.recipients import Recipient, create_recipient
from dbsec.backup.repository import Repository
from dbsec.clock import SYSTEM, Clock, rfc3339
from dbsec.errors import NewerFormat
from dbsec.store import ObjectStore

FORMAT: Final = 1
REKEYS: Final = "notes/rekeys/"
PROOFS: Final = "notes/proofs/"
SHREDS: Final = "notes/shreds/"
RECIPIENTS: Final = "notes/recipients/"
BEGUN: Final = "begun"
DONE: Final = "done"


def put_note(repository: Repository, folder: str, now: datetime, told: Mapping[str, Any], *, stem: str = "") -> str:
    """Put a note and return its name: ``folder``, ``stem`` or the moment, 8 hex digits. Shape: canonical JSON."""
    name = f"{folder}{stem or f'{now:%Y%m%dT%H%M%SZ}'}-{os.urandom(4).hex()}"
    repository.put(name, canonical.json_bytes({"format": FORMAT, "at": rfc3339(now), **told}))
    return name


def notes(repository: Repository, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the notes of a folder, oldest first. Errors: those of ``Repository.get``; ``NewerFormat``."""
    for entry in repository.list(folder):
        try:
            told: dict[str, Any] = json.loads(repository.get(entry.name))
            found = told["format"]
        except (ValueError, TypeError, KeyError, RecursionError) as exc:
            raise Tampered(entry.name, "it is no note of ours") from exc
        if found > FORMAT:
            raise NewerFormat(f"'{entry.name}'", found=found, known=FORMAT)
        yield entry.name, told


def shred_stem(period: str, step: str) -> str:
    """Return what the name of a note about a shredded period begins with, below ``SHREDS``."""
    return f"{period}/{step}"


def shredding(store: ObjectStore, period: str, step: str) -> bool:
    """Tell, by names alone, whether a period's shredding has got to a step."""
    return next(iter(store.list(f"{SHREDS}{shred_stem(period, step)}-")), None) is not None


def shredded(store: ObjectStore) -> frozenset[str]:
    """Return the periods whose KEK was destroyed, by names alone: the notes may be under a KEK that has gone since."""
    names = (entry.name.removeprefix(SHREDS).split("/") for entry in store.list(SHREDS))
    return frozenset(parts[0] for parts in names if len(parts) == 2 and parts[1].startswith(f"{DONE}-"))


def make_recipient(repository: Repository, *, clock: Clock = SYSTEM) -> Recipient:
    """Make a recipient, and note it. Errors: those of ``create_recipient`` and of ``put_note``."""
    recipient = create_recipient(repository.keys)
    told = {"what": "recipient", "public": recipient.public.hex(), "holder": recipient.holder}
    put_note(repository, RECIPIENTS, clock.now(), told)
    return recipient
