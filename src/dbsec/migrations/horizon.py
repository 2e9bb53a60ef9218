"""Who could still see rows of before: as long as somebody can, VACUUM FULL takes dead rows along into the new file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, LiteralString

import psycopg

from dbsec.clock import Clock
from dbsec.errors import ApplyError, GaveUp
from dbsec.retry import wait_until

_MAY: LiteralString = "SELECT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')"
_MARK: LiteralString = "SELECT (pg_catalog.pg_current_xact_id()::text::bigint & 4294967295)::text"
_HOLDERS: LiteralString = """
WITH mark AS (SELECT pg_catalog.age(%(mark)s::text::xid) AS age)
SELECT pg_catalog.format('pid %%s of %%L (%%s)', pid, usename, coalesce(nullif(application_name, ''), backend_type))
  FROM pg_catalog.pg_stat_activity, mark
 WHERE pid <> pg_catalog.pg_backend_pid() AND pg_catalog.age(backend_xmin) > mark.age
   AND (datname = pg_catalog.current_database() OR backend_type = 'walsender')
UNION ALL
SELECT pg_catalog.format('replication slot %%L', slot_name) FROM pg_catalog.pg_replication_slots, mark
 WHERE pg_catalog.age(xmin) > mark.age OR pg_catalog.age(catalog_xmin) > mark.age
UNION ALL
SELECT pg_catalog.format('prepared transaction %%L', gid) FROM pg_catalog.pg_prepared_xacts, mark
 WHERE database = pg_catalog.current_database() AND pg_catalog.age(transaction) > mark.age
"""


def holders(connection: psycopg.Connection[Any]) -> Callable[[], list[str]]:
    """Return what lists who can still see rows that are dead now: sessions with an old snapshot, slots of standbys,
    prepared transactions. Errors: ``ApplyError`` where this role does not see the sessions of others."""
    row = connection.execute(_MAY).fetchone()
    if row is None or not row[0]:
        raise ApplyError(
            "this role does not see who has an old snapshot, and who has one could still read what must go",
            hint="GRANT pg_read_all_stats TO the role",
        )
    mark = connection.execute(_MARK).fetchone()
    assert mark is not None
    return lambda: [str(name) for (name,) in connection.execute(_HOLDERS, {"mark": mark[0]})]


def wait(connection: psycopg.Connection[Any], *, within_s: float, clock: Clock) -> None:
    """Wait until nobody sees rows that are dead now. Errors: ``GaveUp``, naming who does; those of ``holders``.

    A standby with hot_standby_feedback tells how far it is only each wal_receiver_status_interval: ten seconds.
    """
    who = holders(connection)
    what = "old snapshots to end"
    try:
        wait_until(lambda: not who(), within_s=within_s, what=what, every_s=0.1, clock=clock)
    except GaveUp as exc:
        left = who()
        named = f": {', '.join(left[:3])}" if left else ""
        raise GaveUp(f"{exc.message}{named}", hint="end them, or wait; then run it again") from exc
