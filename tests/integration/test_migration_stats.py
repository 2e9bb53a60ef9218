"""A snapshot of real tables: sizes, partitions, rates, and that it writes nothing."""

from __future__ import annotations

import psycopg
import pytest

from dbsec.migrations import stats
from dbsec.migrations.names import Name
from dbsec.pg import connect

pytestmark = pytest.mark.pg(15, 17, 18)

_TABLES = """
CREATE SCHEMA app;
CREATE TABLE app.users (id int PRIMARY KEY, name text);
INSERT INTO app.users SELECT n, repeat('x', 100) FROM generate_series(1, 20000) AS n;
CREATE TABLE app.never_analyzed (id int);
INSERT INTO app.never_analyzed SELECT generate_series(1, 500);
CREATE TABLE app.events (day date) PARTITION BY RANGE (day);
CREATE TABLE app.events_1 PARTITION OF app.events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE app.events_2 PARTITION OF app.events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
INSERT INTO app.events SELECT date '2026-01-01' + n % 50 FROM generate_series(1, 1000) AS n;
CREATE MATERIALIZED VIEW app.view AS SELECT * FROM app.users;
CREATE TABLE app."Odd; Name" ();
"""


class Writing:
    """A clock whose waiting writes rows meanwhile."""

    def __init__(self, conninfo):
        self.conninfo = conninfo
        self.passed = 0.0

    def now(self):
        return stats.SYSTEM.now()

    def monotonic(self):
        return self.passed

    def sleep(self, seconds):
        with connect(self.conninfo) as other:
            other.execute("INSERT INTO app.users SELECT n, 'y' FROM generate_series(20001, 20700) AS n")
            other.execute("SELECT count(*) FROM app.events_1")
            other.execute("SELECT pg_stat_force_next_flush()")
        self.passed += seconds


def test_a_snapshot_tells_sizes_rows_and_rates(database):
    with connect(database.conninfo) as connection:
        connection.execute(_TABLES)
        connection.execute("ANALYZE app.users, app.events, app.view")
        connection.execute("SELECT pg_stat_force_next_flush()")
        taken = stats.snapshot(connection, 2.0, clock=Writing(database.conninfo))
    tables = taken.tables
    users, events = tables[Name("app", "users")], tables[Name("app", "events")]
    assert {name.name for name in tables} == {
        "users", "never_analyzed", "events", "events_1", "events_2", "view", "Odd; Name",
    }  # fmt: skip
    assert users.rows == 20_000
    assert 2_000_000 < users.bytes < 4_000_000
    assert users.index_bytes > 300_000
    assert users.writes_per_s == 350.0
    assert events.rows == tables[Name("app", "events_1")].rows + tables[Name("app", "events_2")].rows == 1000
    assert events.bytes == sum(tables[Name("app", f"events_{n}")].bytes for n in (1, 2)) > 0
    assert events.reads_per_s == tables[Name("app", "events_1")].reads_per_s == 0.5
    assert taken.major == database.cluster.major
    assert database.conninfo.dbname in taken.source
    assert (taken.interval_s, users.tiny, tables[Name("app", "never_analyzed")].tiny) == (2.0, False, True)


def test_a_snapshot_only_reads_and_waits_for_no_lock(database):
    with connect(database.conninfo) as connection, connect(database.conninfo, autocommit=False) as holder:
        connection.execute("CREATE TABLE t (id int)")
        holder.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            stats.snapshot(connection, 0.0)
        holder.rollback()
        stats.snapshot(connection, 0.0)
        assert connection.execute("SELECT pg_current_xact_id_if_assigned() IS NULL").fetchone() == (True,)
