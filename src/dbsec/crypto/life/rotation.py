"""A new DEK for a tenant and context: the next generation encrypts, the one before still decrypts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

from dbsec.clock import SYSTEM, Clock
from dbsec.crypto.keyring import new_key
from dbsec.crypto.life import keys, rows, wrapped
from dbsec.crypto.opening import Connect
from dbsec.crypto.store import KeyRow, KeyState, Purpose
from dbsec.journal import Edge, Observer
from dbsec.kms import Kms
from dbsec.progress import Progress, Silent


@dataclass(frozen=True, slots=True)
class Rotated:
    """Which key took over from which."""

    tenant: str
    context: str
    old: int
    new: int
    generation: int


def candidates(
    connection: psycopg.Connection[Any],
    *,
    tenants: Sequence[str] = (),
    context: str | None = None,
    only_due: timedelta | None = None,
    clock: Clock = SYSTEM,
) -> list[KeyRow]:
    """Return the keys that encrypt data: of these tenants (none: of all), past the cadence ``only_due`` if given."""
    found = [key for key in keys.read(connection, None, context=context, clock=clock) if _encrypts(key.row)]
    if only_due is not None:
        found = list(keys.due(found, only_due))
    return [key.row for key in found if not tenants or key.row.tenant in tenants]


def rotate(
    connect: Connect,
    kms: Kms,
    wanted: Sequence[KeyRow],
    *,
    progress: Progress | None = None,
    observer: Observer | None = None,
) -> Iterator[Rotated]:
    """Give each of these active keys a successor, and yield what was done, key by key.

    A key and its successor change places in one transaction, after the KMS has wrapped: whatever is killed or away,
    one key encrypts at any time. Processes follow when their TTL ends, or at their next lease.
    Locks: an advisory lock for each tenant and context. Errors: ``KmsError``, and the keys so far stay rotated;
    ``ApplyError`` where somebody else rotated a key meanwhile.
    """
    progress = progress or Silent()
    with closing(connect()) as connection:
        connection.autocommit = True
        for n, old in enumerate(wanted, 1):
            yield _one(connection, kms, old, observer)
            progress.count("keys rotated", n, len(wanted))


def _one(connection: psycopg.Connection[Any], kms: Kms, old: KeyRow, observer: Observer | None) -> Rotated:
    step = f"rotate key {old.id}"
    with rows.alone(connection, "crypto rotate", f"{old.tenant}\0{old.context}"):
        generation = rows.last_generation(connection, old.tenant, old.context, Purpose.DATA) + 1
        _observe(observer, step, Edge.BEFORE)
        new = new_key(kms, old.tenant, old.context, Purpose.DATA, generation)
        wrapped.prove(kms, new)
        _observe(observer, f"{step} wrapped", Edge.AFTER_EFFECT)
        made = rows.succeed(connection, old, new)
    _observe(observer, step, Edge.AFTER_RECORD)
    return Rotated(old.tenant, old.context, old.id, made, generation)


def _encrypts(row: KeyRow) -> bool:
    return row.state is KeyState.ACTIVE and row.purpose is Purpose.DATA


def _observe(observer: Observer | None, step: str, edge: Edge) -> None:
    if observer is not None:
        observer(step, edge)
