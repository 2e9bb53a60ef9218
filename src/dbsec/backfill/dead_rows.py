"""What a backfill leaves behind: a dead version of each row that it wrote, told in numbers that the server counted."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from dbsec import retry
from dbsec.backfill.target import Target
from dbsec.errors import GaveUp

LEAST = 1000  # fewer dead rows than these are autovacuum's
_READ: LiteralString = """
SELECT coalesce(sum(s.n_tup_upd), 0)::bigint, coalesce(sum(s.n_tup_hot_upd), 0)::bigint,
       coalesce(sum(s.n_dead_tup), 0)::bigint, coalesce(sum(s.n_live_tup), 0)::bigint
  FROM pg_catalog.pg_stat_all_tables s
 WHERE s.relid = %(oid)s OR s.relid IN (SELECT t.relid FROM pg_catalog.pg_partition_tree(%(oid)s) t)
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters of a table: updates, those of them that touched no index (HOT), dead and live rows of now."""

    updates: int
    hot: int
    dead: int
    live: int


def read(connection: psycopg.Connection[Any], target: Target) -> Counts:
    """Read the counters of a table and its partitions."""
    row = connection.execute(_READ, {"oid": target.oid}).fetchone()
    return Counts(*(row or (0, 0, 0, 0)))


def hint(connection: psycopg.Connection[Any], target: Target, before: Counts, changed: int) -> str:
    """Say what to do where a fifth of the rows is dead after ``changed`` updates; empty where nothing is.

    The sessions that did them must have ended: their counts arrive with that, and are waited for, for a second.
    """
    if changed < LEAST:
        return ""
    with suppress(GaveUp):
        retry.wait_until(
            lambda: read(connection, target).updates - before.updates >= changed,
            within_s=1,
            what="the server's counters",
        )
    after = read(connection, target)
    if after.dead < LEAST or after.dead * 4 < after.live:
        return ""
    updates, hot = after.updates - before.updates, after.hot - before.hot
    share = f"; {100 * hot // updates} % of the updates touched no index" if updates > 0 else ""
    name = sql.Identifier(target.schema, target.name).as_string()
    return f"{after.dead:,} dead rows beside {after.live:,} live ones{share}: VACUUM (ANALYZE) {name};"
