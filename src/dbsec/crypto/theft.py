"""What is stolen is opened at home: rows and keyring of a database, with and without a right to the KMS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier

from dbsec.crypto.attacked import CryptoTarget, canaries, in_clear, stored
from dbsec.crypto.columns import EncryptedColumn
from dbsec.crypto.envelope import Envelope
from dbsec.crypto.errors import DecryptionFailed
from dbsec.crypto.keyring import Keyring
from dbsec.crypto.postgres_store import row_maker
from dbsec.crypto.store import MemoryKeyStore
from dbsec.evidence import Observation, Outcome
from dbsec.kms import Kms

Stolen = Callable[[psycopg.Connection[Any]], MemoryKeyStore]
_ROWS = 40
_KEYRING: LiteralString = """
SELECT id, tenant, context, purpose, generation, state, wrapped, kek, kek_version, commitment, salt, used,
       created_at, retired_at
  FROM dbsec.keyring
"""


def table_alone(target: CryptoTarget) -> Observation:
    """Read every byte of a stolen row, with no keyring at hand; PASS where no phone or address is in it."""
    return _robbed(target, lambda _: MemoryKeyStore(), target.stranger, "the rows alone")


def table_and_keyring(target: CryptoTarget) -> Observation:
    """Open stolen rows with the stolen keyring and no right to the KMS; PASS where none opens.

    The same loot opens with the service's right: it is whole, and the right alone is missing.
    """
    return _robbed(target, _stolen_keyring, target.stranger, "rows and keyring")


def altered_keyring(target: CryptoTarget) -> Observation:
    """Open rows with the service's right to the KMS and one bit of each wrapped key altered; PASS where none opens."""

    def altered(admin: psycopg.Connection[Any]) -> MemoryKeyStore:
        store = _stolen_keyring(admin)
        for row in list(store.rows.values()):
            wrapped = row.wrapped[:-1] + bytes([row.wrapped[-1] ^ 1])
            store.rows[row.id] = replace(row, wrapped=wrapped)
        return store

    return _robbed(target, altered, target.kms, "rows and a keyring with altered keys")


def _robbed(
    target: CryptoTarget,
    keyring: Callable[[psycopg.Connection[Any]], MemoryKeyStore],
    kms: Callable[[], Kms],
    loot: str,
) -> Observation:
    with canaries(target, target.tenants[0]) as (admin, _):
        columns = {stored(target, admin, column): column for column in (target.phone, target.email)}
        rows = _stolen_rows(target, admin)
        clear = sum(in_clear(row[name]) for row in rows for name in columns)
        facts: dict[str, Any] = {"rows": len(rows), "in_clear": clear}
        if clear:
            return Observation(Outcome.FAIL, f"{loot} were stolen: {clear} values stand in clear", facts)
        store, whole = keyring(admin), _stolen_keyring(admin)
    encrypted = [(row, column) for row in rows for column in columns.values()]
    opened = _opened(encrypted, store, kms())
    readable = _opened(encrypted, whole, target.kms())
    facts |= {"values": len(encrypted), "opened": opened, "opened_by_service": readable}
    if readable != len(encrypted):
        return Observation(Outcome.ERROR, f"{readable} of {len(encrypted)} values open for the service itself", facts)
    summary = f"{loot} were stolen: {opened} of {len(encrypted)} values open, all of them for the service"
    return Observation(Outcome.FAIL if opened else Outcome.PASS, summary, facts)


def _opened(values: list[tuple[dict[str, Any], EncryptedColumn]], store: MemoryKeyStore, kms: Kms) -> int:
    """Count what opens. Errors: ``KmsUnavailable``, which says nothing about the control."""
    envelope, opened = Envelope(Keyring(store, kms)), 0
    for row, column in values:
        tenant = str(row[column.tenant]) if column.tenant else ""
        at = tuple(row[name] for name in column.row)
        try:
            envelope.decrypt(row[column.column], column.field, tenant=tenant, row=at)
            opened += 1
        except DecryptionFailed:
            continue
    return opened


def _raw(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _stolen_rows(target: CryptoTarget, admin: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    table = Identifier(*target.phone.table.split("."))
    with admin.cursor(row_factory=dict_row) as cursor:
        query = SQL("SELECT * FROM {} ORDER BY id DESC LIMIT %s").format(table)
        return cursor.execute(query, [_ROWS]).fetchall()


def _stolen_keyring(admin: psycopg.Connection[Any]) -> MemoryKeyStore:
    store = MemoryKeyStore()
    with admin.cursor(row_factory=dict_row) as cursor:
        store.rows = {row["id"]: row_maker(**row) for row in cursor.execute(_KEYRING)}
    return store
