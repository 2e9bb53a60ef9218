"""What a drill leaves in the repository: a sealed note, by which everybody sees how old the last proof is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from dbsec import canonical
from dbsec.backup.errors import KeyUnavailable, Tampered
from dbsec.backup.repository import Repository
from dbsec.clock import rfc3339
from dbsec.store import ObjectMissing

DRILLS: Final = "notes/drills/"


def put_proof(repository: Repository, now: datetime, told: Mapping[str, Any]) -> str:
    """Put a note and return its name; names sort by time.

    Shape: ``outcome``, ``why``, ``at``, ``scenario``, ``rpo_s``, ``rto_s``, ``objective_rpo_s``, ``objective_rto_s``,
    ``backup``, ``target``, ``tables``, ``rows``, ``bytes``; what was not measured is null.
    Errors: those of ``Repository.put``.
    """
    name = f"{DRILLS}{now:%Y%m%dT%H%M%S.%fZ}-{os.urandom(4).hex()}"
    repository.put(name, canonical.json_bytes({"format": 1, **told}))
    return name


def read_proof(repository: Repository, name: str) -> dict[str, Any]:
    """Read one. Errors: ``Tampered``; those of ``Repository.get``."""
    try:
        told = json.loads(repository.get(name))
        if not isinstance(told, dict):
            raise TypeError(name)
        return {**told, "outcome": str(told["outcome"]), "at": rfc3339(datetime.fromisoformat(told["at"]))}
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise Tampered(name, "it is no proof of a drill") from exc


def last_proven(repository: Repository) -> datetime | None:
    """Return when a drill last passed; None where none has.

    A note that does not open proves nothing and is passed over: the age that is told can only be too old. Errors:
    ``KeyUnavailable`` where no KMS could be asked; those of the store.
    """
    for entry in reversed(list(repository.list(DRILLS))):
        try:
            told = read_proof(repository, entry.name)
        except (Tampered, ObjectMissing):
            continue
        except KeyUnavailable as exc:
            if exc.refused:
                continue
            raise
        if told["outcome"] == "pass":
            return datetime.fromisoformat(told["at"])
    return None
