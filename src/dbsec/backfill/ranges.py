"""Splits the key space once, from a sample of the table: the ranges that workers claim batch by batch."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg import sql

from dbsec.backfill import windows
from dbsec.backfill.job import Job
from dbsec.backfill.session import Limits
from dbsec.backfill.target import Target
from dbsec.backfill.windows import Key

SAMPLE_PAGES = 500
# A table that is neither partitioned nor a partition has no tree.
_SIZE: LiteralString = """
SELECT sum(pg_catalog.pg_relation_size(t.relid))::bigint / current_setting('block_size')::bigint
  FROM (SELECT %(oid)s::oid UNION SELECT p.relid FROM pg_catalog.pg_partition_tree(%(oid)s) p) AS t(relid)
"""
_ENTER: LiteralString = """
INSERT INTO dbsec.backfill_ranges (backfill, n, low_key, high_key, cursor_key) VALUES (%s, %s, %s, %s, %s)
"""


def split(connection: psycopg.Connection[Any], job: Job, target: Target, limits: Limits) -> None:
    """Enter the ranges of a job that has just been begun, in the caller's transaction; an empty table has none.

    The last one ends at the highest key of this moment. Whatever writes rows later, above it or between the keys, must
    write them right already (a trigger, or the application): that is why a backfill comes after its expand.
    """
    highest = _highest(connection, target)
    if highest is None:
        return
    estimate, bounds = sample(connection, target, most=limits.ranges, least_rows=job.batch_rows * limits.range_batches)
    low: Key | None = None
    for n, high in enumerate([*bounds, highest], 1):
        connection.execute(_ENTER, (job.name, n, low, high, low))
        low = high
    connection.execute("UPDATE dbsec.backfills SET estimate = %s WHERE name = %s", (estimate, job.name))


def sample(
    connection: psycopg.Connection[Any], target: Target, *, most: int, least_rows: int
) -> tuple[int, list[list[str]]]:
    """Guess how many rows there are, and the keys that part them evenly, from some pages of the table.

    At most ``most`` parts, of ``least_rows`` or more. Reads 500 pages (4 MB) or the whole of a smaller table.
    """
    row = connection.execute(_SIZE, {"oid": target.oid}).fetchone()
    pages = row[0] if row else 0
    percent = min(100.0, 100 * SAMPLE_PAGES / max(pages, 1))
    seen = sql.SQL("{} TABLESAMPLE SYSTEM ({})").format(target.identifier, sql.Literal(percent))
    count = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(seen), ()).fetchone()
    estimate = round((count[0] if count else 0) * 100 / percent)
    parts = max(1, min(most, estimate // max(least_rows, 1)))
    if parts == 1:
        return estimate, []
    cut = sql.SQL(
        "SELECT {texts} FROM "
        "(SELECT {key}, row_number() OVER (ORDER BY {key}) AS dbsec_at, count(*) OVER () AS dbsec_of FROM {seen}) AS s"
        " WHERE dbsec_at < dbsec_of"
        " AND dbsec_at * %(parts)s / dbsec_of > (dbsec_at - 1) * %(parts)s / dbsec_of ORDER BY dbsec_at"
    ).format(texts=windows.texts(target), key=windows.columns(target), seen=seen)
    return estimate, [key for (key,) in connection.execute(cut, {"parts": parts})]


def _highest(connection: psycopg.Connection[Any], target: Target) -> list[str] | None:
    back = sql.SQL(", ").join(sql.SQL("{} DESC").format(column.identifier) for column in target.key)
    query = sql.SQL("SELECT {} FROM {} ORDER BY {} LIMIT 1")
    row = connection.execute(query.format(windows.texts(target), target.identifier, back), ()).fetchone()
    return row[0] if row else None
