"""Advisory locks of dbsec: their keys, and who holds them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg

# "dbse" in ASCII is the upper half of every key, so that ours are known in pg_locks.
FAMILY = 0x64627365
_HOLDERS: LiteralString = """
SELECT l.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), a.backend_start,
       l.classid::bigint << 32 | l.objid::bigint
  FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
 WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.classid = %(family)s
   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
   AND (%(key)s::bigint IS NULL OR l.objid = (%(key)s::bigint & 4294967295)::oid)
 ORDER BY a.backend_start, l.pid
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """A session that holds one of our locks. ``since`` is when it logged in; None where it has ended meanwhile."""

    pid: int
    user: str
    application: str
    since: datetime | None
    key: int

    def __str__(self) -> str:
        return f"pid {self.pid} ('{self.application}' as '{self.user}')"


def key(purpose: str, name: str = "") -> int:
    """Return the key of a lock for ``pg_advisory_lock(bigint)``; it counts in one database.

    Shape: 4 bytes "dbse", 4 bytes of SHA-256 over purpose, NUL and name.
    """
    digest = hashlib.sha256(f"{purpose}\0{name}".encode()).digest()
    return FAMILY << 32 | int.from_bytes(digest[:4], "big")


def holders(connection: psycopg.Connection[Any], lock: int | None = None) -> list[Holder]:
    """Tell who holds a lock in this database, or any lock of dbsec; our own session too."""
    return [Holder(*row) for row in connection.execute(_HOLDERS, {"family": FAMILY, "key": lock})]
