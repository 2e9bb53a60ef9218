"""What a backfill leaves behind: a dead version of each row that it wrote, told in numbers that the server counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from dbsec.backfill.target import Target

_READ: LiteralString = """
SELECT coalesce(sum(s.n_tup_upd), 0)::bigint, coalesce(sum(s.n_tup_hot_upd), 0)::bigint,
       coalesce(sum(s.n_dead_tup), 0)::bigint, coalesce(sum(s.n_live_tup), 0)::bigint
  FROM pg_catalog.pg_stat_all_tables s
 WHERE s.relid IN (SELECT t.relid FROM pg_catalog.pg_partition_tree(%s) t WHERE t.isleaf)
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters of a table: updates, those of them that touched no index (HOT), dead and live rows of now."""

    updates: int
    hot: int
    dead: int
    live: int


def read(connection: psycopg.Connection[Any], target: Target) -> Counts:
    """Read the counters of a table and its partitions; the server is up to a second late with them."""
    row = connection.execute(_READ, (target.oid,)).fetchone()
    return Counts(*(row or (0, 0, 0, 0)))


def hint(before: Counts, after: Counts, target: Target) -> str:
    """Say what to do where a fifth of the rows is dead; empty where nothing is."""
    if after.dead < 1000 or after.dead * 4 < after.live:
        return ""
    updates, hot = after.updates - before.updates, after.hot - before.hot
    share = f"; {100 * hot // updates} % of the updates touched no index" if updates > 0 else ""
    return f"{after.dead:,} dead rows beside {after.live:,} live ones{share}: VACUUM (ANALYZE) {target};"
