"""What the server feels of a backfill: each signal is one reading with numbers, taken here and judged elsewhere.

A signal that a role may not see is an error and never a zero.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg.rows import scalar_row

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import GaveUp

_GRANT = "GRANT pg_read_all_stats TO the role that runs the backfill, or switch the limit off"
_HISTORY = 1200  # positions of the log that are kept: ten minutes at two readings a second
_RATE_OVER_S = 2.0
_PROBES = 20
_FEW = 1000  # dead rows below which a share of the table says nothing

_REPLICAS: LiteralString = """
SELECT 'replica ''' || coalesce(nullif(r.application_name, ''), r.pid::text) || '''',
       pg_catalog.pg_wal_lsn_diff(r.replay_lsn, '0/0')::bigint,
       coalesce(extract(epoch FROM r.replay_lag), 0)::float8
  FROM pg_catalog.pg_stat_replication r
 WHERE r.state IN ('catchup', 'streaming') AND r.replay_lsn IS NOT NULL
UNION ALL
SELECT 'the idle replication slot ''' || s.slot_name || '''',
       pg_catalog.pg_wal_lsn_diff(s.restart_lsn, '0/0')::bigint, 0
  FROM pg_catalog.pg_replication_slots s
 WHERE NOT s.active AND s.restart_lsn IS NOT NULL AND s.wal_status IS DISTINCT FROM 'lost'
"""
_HIDDEN_SENDERS: LiteralString = "SELECT count(*) FROM pg_catalog.pg_stat_replication WHERE state IS NULL"
_HIDDEN_SESSIONS: LiteralString = """
SELECT count(*) FROM pg_catalog.pg_stat_activity a
 WHERE a.query = '<insufficient privilege>'
   AND (a.datid IS NULL OR a.datid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
"""
# What vacuum waits for in this database. Vacuum's own snapshot holds nobody back.
_TRANSACTIONS: LiteralString = """
SELECT format('session %s (%s, %s)', a.pid, coalesce(nullif(a.application_name, ''), a.usename, a.backend_type),
              coalesce(a.state, 'unknown')),
       extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8 AS s,
       greatest(pg_catalog.age(a.backend_xid), pg_catalog.age(a.backend_xmin)) AS xids
  FROM pg_catalog.pg_stat_activity a
 WHERE (a.datname = current_database() OR a.datid IS NULL) AND a.pid <> pg_catalog.pg_backend_pid()
   AND (a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL) AND a.backend_type <> 'autovacuum worker'
UNION ALL
SELECT format('the prepared transaction ''%s''', p.gid),
       extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::float8, pg_catalog.age(p.transaction)
  FROM pg_catalog.pg_prepared_xacts p WHERE p.database = current_database()
UNION ALL
SELECT format('the replication slot ''%s''', s.slot_name), NULL, pg_catalog.age(s.xmin)
  FROM pg_catalog.pg_replication_slots s WHERE s.xmin IS NOT NULL
"""
# A row's lock is waited for as its holder's transaction: that one counts where the holder has a lock on the table.
_WAITING: LiteralString = """
WITH tree AS MATERIALIZED (
  SELECT pg_catalog.to_regclass(%(table)s)::oid AS relid
   UNION SELECT relid FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass(%(table)s))
), locks AS MATERIALIZED (
  SELECT * FROM pg_catalog.pg_locks
), holders AS (
  SELECT DISTINCT h.transactionid FROM locks h JOIN locks t USING (pid)
   WHERE h.locktype = 'transactionid' AND h.granted AND t.granted AND t.relation IN (SELECT relid FROM tree)
)
SELECT count(DISTINCT w.pid) FROM locks w
 WHERE NOT w.granted
   AND (w.relation IN (SELECT relid FROM tree) OR w.transactionid IN (SELECT transactionid FROM holders))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = w.pid AND a.application_name LIKE 'dbsec@%%')
"""
_DEAD: LiteralString = """
WITH tree AS MATERIALIZED (
  SELECT pg_catalog.to_regclass(%(table)s)::oid AS relid
   UNION SELECT relid FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass(%(table)s))
)
SELECT coalesce(sum(s.n_dead_tup), 0)::float8, coalesce(sum(s.n_live_tup), 0)::float8
  FROM pg_catalog.pg_stat_all_tables s WHERE s.relid IN (SELECT relid FROM tree)
"""


class NotReadable(GaveUp):
    """A signal that could not be read. ``lasting`` where trying again does not help."""

    def __init__(self, message: str, *, hint: str = "", lasting: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class Reading:
    """One number of one signal; ``of`` says whose it is."""

    value: float
    of: str = ""


@dataclass(slots=True)
class Source:
    """Where signals are read: one session, and what was seen of it before. ``table`` is qualified as SQL writes it."""

    table: str
    probe: str = ""
    wait_query: str = ""
    timeout_ms: int = 2000
    clock: Clock = SYSTEM
    session: psycopg.Connection[Any] | None = None
    positions: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    probes: deque[float] = field(default_factory=lambda: deque(maxlen=_PROBES))

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """Return the session that is open."""
        if self.session is None:
            raise psycopg.OperationalError("no session is open")
        return self.session

    def mark(self) -> None:
        """Note where the log stands now: rates and ages are told from these notes."""
        position = self.number("SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0')::bigint")
        self.positions.append((self.clock.monotonic(), int(position)))

    def number(self, query: LiteralString) -> Any:
        """Ask for one value about the table."""
        with self.connection.cursor(row_factory=scalar_row) as cursor:
            return cursor.execute(query, {"table": self.table} if "%(table)s" in query else None).fetchone()

    def behind_s(self, position: int) -> float:
        """Return how long the log has been beyond a position, as far back as our notes reach.

        The server's own ``replay_lag`` is NULL, or stays at a millisecond, where a standby stands still from its start.
        """
        first = next((at for at, there in self.positions if there > position), None)
        return 0.0 if first is None else self.positions[-1][0] - first


def lag_bytes(source: Source) -> list[Reading]:
    """Read how many bytes of log each replica has not replayed. Needs pg_read_all_stats where there are replicas."""
    return [Reading(source.positions[-1][1] - position, of) for of, position, _ in _replicas(source)]


def lag_s(source: Source) -> list[Reading]:
    """Read how many seconds each replica is behind in replay."""
    return [Reading(max(lag, source.behind_s(position)), of) for of, position, lag in _replicas(source)]


def _replicas(source: Source) -> list[tuple[str, int, float]]:
    if hidden := source.number(_HIDDEN_SENDERS):
        raise NotReadable(f"{hidden} replicas are hidden from this role", hint=_GRANT, lasting=True)
    return source.connection.execute(_REPLICAS).fetchall()


def wal_bytes_per_s(source: Source) -> list[Reading]:
    """Read the rate at which the whole server writes its log, over the last two seconds."""
    now, position = source.positions[-1]
    before = [(at, there) for at, there in source.positions if now - at >= _RATE_OVER_S] or [source.positions[0]]
    at, there = before[-1]
    return [Reading((position - there) / (now - at), "the server")] if now > at else []


def transaction_s(source: Source) -> list[Reading]:
    """Read the age of the transactions that keep vacuum from dead rows. Needs pg_read_all_stats."""
    return [Reading(age, of) for of, age, _ in _transactions(source) if age is not None]


def xmin_age(source: Source) -> list[Reading]:
    """Read the same age in transactions, replication slots and prepared transactions included."""
    return [Reading(age, of) for of, _, age in _transactions(source) if age is not None]


def _transactions(source: Source) -> list[tuple[str, float | None, int | None]]:
    if hidden := source.number(_HIDDEN_SESSIONS):
        raise NotReadable(f"{hidden} sessions are hidden from this role", hint=_GRANT, lasting=True)
    return source.connection.execute(_TRANSACTIONS).fetchall()


def lock_waits(source: Source) -> list[Reading]:
    """Read how many sessions wait for a lock on the table, its partitions or its rows; our own do not count."""
    return [Reading(source.number(_WAITING), source.table)]


def dead_share(source: Source) -> list[Reading]:
    """Read the share of the table's rows that are dead, as the statistics know it."""
    dead, live = source.connection.execute(_DEAD, {"table": source.table}).fetchall()[0]
    return [Reading(dead / (dead + live), source.table)] if dead >= _FEW else []


def probe_p95_ms(source: Source) -> list[Reading]:
    """Run the probe and read the 95th percentile of its last runs; one that was cut off counts its whole time."""
    begin = source.clock.monotonic()
    try:
        _ask(source, source.probe)
    except psycopg.errors.QueryCanceled:
        source.probes.append(float(source.timeout_ms))
    else:
        source.probes.append((source.clock.monotonic() - begin) * 1000)
    ranked = sorted(source.probes)
    return [Reading(ranked[-(-95 * len(ranked) // 100) - 1], "the probe query")]


def asks_to_wait(source: Source) -> bool:
    """Run the free query of the site: true is wait, false and NULL are go on."""
    rows = _ask(source, source.wait_query)
    if len(rows) != 1 or len(rows[0]) != 1 or not isinstance(rows[0][0], bool | None):
        raise NotReadable(
            "wait_query must give one row with one boolean", hint="SELECT count(*) > 100 FROM ...", lasting=True
        )
    return bool(rows[0][0])


def _ask(source: Source, query: str) -> list[tuple[Any, ...]]:
    # Binary: the extended protocol takes one statement, so that none can end the read-only transaction and write; a
    # prepared one would not be there for the next session that a pooler lends us.
    with source.connection.transaction(force_rollback=True):
        return source.connection.execute(query.encode(), binary=True).fetchall()


SIGNALS: dict[str, Callable[[Source], Sequence[Reading]]] = {
    one.__name__: one
    for one in (lag_bytes, lag_s, wal_bytes_per_s, transaction_s, xmin_age, lock_waits, dead_share, probe_p95_ms)
}
