"""The end of a retired DEK: once no row uses it and no process can, its wrapped bytes go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, LiteralString

import psycopg

from dbsec.clock import SYSTEM, Clock
from dbsec.crypto.columns import EncryptedColumn
from dbsec.crypto.life import rows, tables
from dbsec.crypto.store import KeyRow, KeyState, Purpose
from dbsec.errors import ApplyError

# A writer of before may commit what it encrypted then; so may one that was prepared, or one that we may not look at.
_OLD_WRITERS: LiteralString = """
SELECT 'pid ' || pid || ' (' || coalesce(application_name, '') || ')' FROM pg_catalog.pg_stat_activity
 WHERE datname = pg_catalog.current_database() AND xact_start < %(before)s AND pid <> pg_catalog.pg_backend_pid()
   AND backend_type = 'client backend'
UNION ALL
SELECT 'one that only pg_read_all_stats may look at' FROM pg_catalog.pg_stat_activity
 WHERE datname = pg_catalog.current_database() AND query = '<insufficient privilege>' AND backend_type IS NULL
UNION ALL
SELECT 'prepared transaction ''' || gid || '''' FROM pg_catalog.pg_prepared_xacts
 WHERE database = pg_catalog.current_database() AND prepared < %(before)s
"""


@dataclass(frozen=True, slots=True)
class Retired:
    """A key that only decrypts. ``values`` are those under it in all declared columns; ``why_not`` it must stay."""

    row: KeyRow
    values: int
    why_not: str = ""


def retired(
    connection: psycopg.Connection[Any],
    keyring: psycopg.Connection[Any],
    columns: Iterable[EncryptedColumn],
    context: str,
    *,
    ttl: timedelta,
    clock: Clock = SYSTEM,
) -> list[Retired]:
    """Return the retired keys of a context, each counted on the live tables; reads them whole.

    ``columns`` are all that are declared: a column that is not declared is not counted. ``ttl`` is the longest of all
    processes. The count comes last: what could still write under a key is looked for before.
    """
    own = [column for column in columns if column.field.context == context]
    found = [
        row
        for row in rows.every(keyring, context=context)
        if row.state is KeyState.RETIRED and row.purpose is Purpose.DATA
    ]
    waits = {row.id: _waits(connection, row, ttl, clock) for row in found}
    used: dict[int | None, int] = {}
    for column in own:
        for key_id, count in tables.values_by_key(connection, column).items():
            used[key_id] = used.get(key_id, 0) + count
    return [Retired(row, used.get(row.id, 0), _why_not(used.get(row.id, 0), waits[row.id], own)) for row in found]


def destroy(keyring: psycopg.Connection[Any], found: Sequence[Retired]) -> list[int]:
    """Empty the wrapped bytes of the keys that nothing uses; returns their ids. Errors: ``ApplyError`` for others."""
    for one in found:
        if one.why_not:
            raise ApplyError(f"key {one.row.id} of '{one.row.context}' stays: {one.why_not}")
    ids = [one.row.id for one in found]
    rows.destroy(keyring, ids)
    return ids


def _waits(connection: psycopg.Connection[Any], row: KeyRow, ttl: timedelta, clock: Clock) -> str:
    if row.retired_at is None:
        return "nobody knows since when it is retired"
    over = row.retired_at + ttl
    if clock.now() < over:
        return f"processes may encrypt under it until {over:%Y-%m-%d %H:%M:%S} UTC"
    old = [who for (who,) in connection.execute(_OLD_WRITERS, {"before": over})]
    return f"a transaction of that time may be open: {', '.join(dict.fromkeys(old))}" if old else ""


def _why_not(values: int, waits: str, columns: Sequence[EncryptedColumn]) -> str:
    if not columns:
        return "no column of its context is declared, so nothing was counted"
    return f"{values:,} values are under it" if values else waits
