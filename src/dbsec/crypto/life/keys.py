"""Which keys there are: their states, uses and ages, the KEKs that wrap them, and what is due."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from dbsec.clock import SYSTEM, Clock
from dbsec.crypto.life import rows
from dbsec.crypto.store import MOST_INVOCATIONS, KeyRow, KeyState, Purpose
from dbsec.errors import ConfigError
from dbsec.findings import Finding, Severity
from dbsec.kms import Description, KekState, Kms, KmsError, KmsUnavailable

WARN_USES = MOST_INVOCATIONS // 2  # half of what NIST SP 800-38D allows: time to rotate without a stop of writes


@dataclass(frozen=True, slots=True)
class Kek:
    """What the KMS says of the KEK of a tenant; ``error`` where it says nothing, ``away`` where it may later."""

    told: Description | None
    error: str = ""
    away: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """A row of the keyring beside its KEK. ``kek`` is None where the KMS was not asked."""

    row: KeyRow
    age: timedelta
    kek: Kek | None

    @property
    def share(self) -> float:
        """Return the part of 2^32 that is used."""
        return self.row.used / MOST_INVOCATIONS

    def to_json(self) -> dict[str, object]:
        """Shape: what may be told of the row, nothing of the wrapped DEK."""
        row, told = self.row, self.kek.told if self.kek else None
        return {
            "id": row.id,
            "tenant": row.tenant,
            "context": row.context,
            "purpose": str(row.purpose),
            "generation": row.generation,
            "state": str(row.state),
            "used": row.used,
            "share": round(self.share, 6),
            "age_days": round(self.age / timedelta(days=1), 2),
            "created_at": row.created_at,
            "retired_at": row.retired_at,
            "kek": row.kek,
            "kek_version": row.kek_version,
            "kek_newest": told.version if told else None,
            "kek_state": str(told.state) if told else None,
        }


Ask = Callable[[KeyRow], Kek | None]


def asking(kms: Kms | None) -> Ask:
    """Return what asks the KMS for the KEK of a row, once a tenant; None asks nobody."""
    known: dict[str, Kek] = {}

    def ask(row: KeyRow) -> Kek | None:
        if kms is None:
            return None
        if row.tenant not in known:
            known[row.tenant] = _asked(kms, row)
        return known[row.tenant]

    return ask


def _asked(kms: Kms, row: KeyRow) -> Kek:
    try:
        return Kek(kms.describe(row.aad))
    except KmsUnavailable as exc:
        return Kek(None, str(exc), away=True)
    except (KmsError, ConfigError) as exc:
        return Kek(None, str(exc))


def read(
    connection: psycopg.Connection[Any],
    kms: Kms | None,
    *,
    tenant: str | None = None,
    context: str | None = None,
    clock: Clock = SYSTEM,
) -> Iterator[Key]:
    """Yield each key of the keyring. Errors: ``ApplyError`` where there is no keyring."""
    ask, now = asking(kms), clock.now()
    for row in rows.every(connection, tenant=tenant, context=context):
        alive = row.state is not KeyState.DESTROYED
        yield Key(row, _age(row, now), ask(row) if alive else None)


def due(keys: Iterable[Key], cadence: timedelta) -> Iterator[Key]:
    """Yield the keys that encrypt and are past their cadence or half of their uses."""
    for key in keys:
        if key.row.state is KeyState.ACTIVE and (key.row.used >= WARN_USES or key.age > cadence):
            yield key


def judge(keys: Iterable[Key], cadence: timedelta) -> list[Finding]:
    """Name what is due or broken; ENC codes. A lookup key has no limit of uses and rotates with its column."""
    return [finding for key in keys for finding in _judged(key, cadence) if finding is not None]


def _judged(key: Key, cadence: timedelta) -> Iterator[Finding | None]:
    row, kek = key.row, key.kek
    if row.state is KeyState.ACTIVE and row.purpose is Purpose.DATA:
        rotate = f"dbsec crypto rotate-dek --tenant '{row.tenant}' --context {row.context} --apply"
        if row.used >= WARN_USES:
            severity = Severity.ERROR
            said = f"key {row.id} has encrypted {row.used:,} times, {key.share:.0%} of 2^32: writes stop at the limit"
            yield _finding("ENC101", "rotate-key-before-its-limit", severity, key, said, rotate)
        if key.age > cadence:
            said = f"key {row.id} is {key.age.days} days old, its cadence is {cadence.days}"
            yield _finding("ENC102", "rotate-key-within-its-cadence", Severity.WARNING, key, said, rotate)
    if kek is None:
        return
    if kek.told is None:
        said = f"the KEK of key {row.id} cannot be asked: {kek.error}"
        yield _finding("ENC103", "keep-kek-usable", Severity.ERROR, key, said, "")
    elif kek.told.state is not KekState.ENABLED:
        said = f"the KEK of key {row.id}, '{kek.told.kek}', is {kek.told.state}: nothing under it opens"
        yield _finding("ENC103", "keep-kek-usable", Severity.ERROR, key, said, "")
    elif (row.kek, row.kek_version) != (kek.told.kek, kek.told.version):
        said = f"key {row.id} is wrapped under '{row.kek}' version {row.kek_version}, the newest is {kek.told.version}"
        fix = "dbsec crypto rewrap --apply"
        yield _finding("ENC104", "rewrap-under-newest-kek", Severity.WARNING, key, said, fix)


def _finding(code: str, name: str, severity: Severity, key: Key, message: str, fix: str) -> Finding:
    row = key.row
    target = f"{row.tenant or '(no tenant)'}/{row.context}/{row.purpose}/{row.generation}"
    return Finding(code, name, severity, target, message, fix)


def _age(row: KeyRow, now: datetime) -> timedelta:
    return now - row.created_at if row.created_at is not None else timedelta()
