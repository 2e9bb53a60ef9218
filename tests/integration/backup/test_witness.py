"""The witness: it sees every change of a value, and its snapshot is its restore point while writers go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from tests.conftest import Database

from dbsec.backup.drill import content
from dbsec.backup.drill.compare import compare
from dbsec.backup.drill.witness import Patience, take_witness
from dbsec.backup.errors import BackupError
from dbsec.errors import GaveUp, UsageError
from dbsec.pg import Conninfo, connect
from dbsec.retry import wait_until
from dbsec.secret import Secret

HASTY = Patience(timedelta(seconds=0.2), timedelta(seconds=0.5), timedelta(seconds=0.05))
SETUP = """
CREATE SCHEMA app;
CREATE TABLE app.users
    (id int PRIMARY KEY, name text, note text, seen timestamptz, share float8, raw bytea, tags text[]);
INSERT INTO app.users SELECT i, 'n' || i, CASE WHEN i % 2 = 0 THEN '' END, now(), i / 3.0, decode('00ff', 'hex'),
       ARRAY['a', NULL, ''] FROM generate_series(1, 50) AS i;
CREATE TABLE app.pairs (a text, b text);
INSERT INTO app.pairs VALUES ('x', 'y'), ('x', 'y'), ('p', 'q'), ('p,q', ''), (NULL, 'z');
CREATE TABLE app.parts (id int, day date) PARTITION BY RANGE (day);
CREATE TABLE app.parts_1 PARTITION OF app.parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
INSERT INTO app.parts VALUES (1, '2026-01-02');
CREATE UNLOGGED TABLE app.cache (id int);
INSERT INTO app.cache VALUES (1);
CREATE SEQUENCE app.numbers;
SELECT nextval('app.numbers');
"""
CHANGES = [
    *("text", "empty", "float", "time", "array", "bytes", "swapped-rows", "swapped-columns", "comma", "other-row"),
    *("as-many", "missing", "twice", "table", "column", "type", "sequence"),
]


@pytest.fixture
def shop(database: Database) -> Conninfo:
    with connect(database.conninfo) as session:
        session.execute(SETUP)
    return database.conninfo


@pytest.fixture
def session(shop: Conninfo) -> Iterator[psycopg.Connection[Any]]:
    with connect(shop) as session:
        yield session


def test_what_has_not_changed_is_equal(shop, session) -> None:
    witness = take_witness(shop)
    assert sorted(witness.tables) == ["app.pairs", "app.parts_1", "app.users"]
    assert (witness.rows, witness.unlogged) == (56, ("app.cache",))
    assert witness.superuser == "postgres"
    session.execute("SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'; SET extra_float_digits = -5")
    assert compare(session, witness).differences == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE app.users SET name = 'N7' WHERE id = 7", "other values"),
        ("UPDATE app.users SET note = NULL WHERE id = 8", "other values"),
        ("UPDATE app.users SET share = share + 1e-15 WHERE id = 1", "other values"),
        ("UPDATE app.users SET seen = seen + '1 us' WHERE id = 1", "other values"),
        ("UPDATE app.users SET tags = ARRAY['a', '', NULL] WHERE id = 1", "other values"),
        ("UPDATE app.users SET raw = '' WHERE id = 1", "other values"),
        ("UPDATE app.users SET name = CASE id WHEN 1 THEN 'n2' ELSE 'n1' END WHERE id < 3", "other values"),
        ("UPDATE app.pairs SET a = b, b = a WHERE a = 'x'", "other values"),
        ("UPDATE app.pairs SET a = 'p', b = 'q,' WHERE a = 'p,q'", "other values"),
        ("DELETE FROM app.pairs WHERE a = 'p'; INSERT INTO app.pairs VALUES ('x', 'y')", "other values"),
        ("UPDATE app.pairs SET a = 'p', b = 'q' WHERE a = 'x'", "other values"),
        ("DELETE FROM app.users WHERE id = 50", "49 rows, not 50"),
        ("INSERT INTO app.pairs VALUES ('x', 'y')", "6 rows, not 5"),
        ("DROP TABLE app.pairs", "not there"),
        ("ALTER TABLE app.users RENAME COLUMN name TO called", "other columns"),
        ("ALTER TABLE app.users ALTER id TYPE int8", "other columns"),
        ("SELECT setval('app.numbers', 1, false)", "behind 1"),
    ],
    ids=CHANGES,
)
def test_every_change_is_seen(shop, session, change: str, said: str) -> None:
    witness = take_witness(shop)
    session.execute(change)
    found = compare(session, witness)
    assert len(found.differences) == 1
    assert said in found.differences[0]


def test_no_order_of_rows_counts(shop, session) -> None:
    witness = take_witness(shop)
    session.execute("CREATE TABLE app.copy AS SELECT * FROM app.users ORDER BY id DESC; TRUNCATE app.users")
    session.execute("INSERT INTO app.users SELECT * FROM app.copy")
    assert compare(session, witness).exact


def test_tables_are_chosen_by_name_or_schema(shop) -> None:
    assert list(take_witness(shop, wanted=["app.pairs"]).tables) == ["app.pairs"]
    assert len(take_witness(shop, wanted=["app"]).tables) == 3
    with pytest.raises(UsageError, match=r"'app\.user'"):
        take_witness(shop, wanted=["app.user"])


def test_the_snapshot_is_the_restore_point_while_writers_write(shop) -> None:
    """Each writer notes how far it had committed; what the snapshot has of it is a prefix, and the lock is short."""
    with connect(shop) as session:
        session.execute("CREATE TABLE app.log (writer int, n int)")
    stop, committed = threading.Event(), [0, 0]

    def write(writer: int) -> None:
        with connect(shop) as session:
            while not stop.is_set():
                session.execute("INSERT INTO app.log VALUES (%s, %s)", [writer, committed[writer]])
                committed[writer] += 1

    threads = [threading.Thread(target=write, args=[writer]) for writer in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: min(committed) > 20, within_s=20, what="writers")
        before = sum(committed)
        witness = take_witness(shop)
        wait_until(lambda: sum(committed) > before + 20, within_s=20, what="writers after the lock")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert before <= witness.tables["app.log"].rows < sum(committed)
    assert witness.held < timedelta(seconds=2)
    with connect(shop) as session:
        assert not compare(session, witness).exact


def test_a_table_that_is_held_is_told_and_nothing_stays_locked(shop, session) -> None:
    with connect(shop, autocommit=False) as writer:
        writer.execute("UPDATE app.users SET note = 'w' WHERE id = 1")
        with pytest.raises(GaveUp, match=r"locking 3 tables") as caught:
            take_witness(shop, patience=HASTY)
        assert "pg_stat_activity" in caught.value.hint
        assert take_witness(shop, wanted=["app.pairs"], patience=HASTY).attempts == 1
    assert session.execute(
        "SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock' AND relation IS NOT NULL"
    ).fetchone() == (0,)


def test_a_writer_that_ends_meanwhile_is_seen_by_the_snapshot(shop, session) -> None:
    """The snapshot is younger than the lock: what is committed while LOCK waits is in."""
    with connect(shop, autocommit=False) as writer:
        writer.execute("INSERT INTO app.pairs VALUES ('late', '')")
        taken: list[Any] = []
        thread = threading.Thread(target=lambda: taken.append(take_witness(shop, wanted=["app.pairs"])))
        thread.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'ShareLock'"
        wait_until(lambda: session.execute(waiting).fetchone() == (1,), within_s=20, what="the lock")
        writer.commit()
        thread.join()
    assert taken[0].tables["app.pairs"].rows == 6
    assert compare(session, taken[0]).exact


def test_the_lock_stops_writers_for_as_long_as_it_is_held_and_readers_never(shop, session, monkeypatch) -> None:
    """A write that comes while the point is made waits, is let through at once after it, and is not in the witness."""
    slow = "SELECT pg_create_restore_point(%s)::text, clock_timestamp() FROM pg_sleep(0.7)"
    monkeypatch.setattr("dbsec.backup.drill.witness._RESTORE_POINT", slow)
    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.append(take_witness(shop, wanted=["app.pairs"])))
    thread.start()
    held = "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'ShareLock' AND relation = 'app.pairs'::regclass"
    wait_until(lambda: session.execute(held).fetchone() == (1,), within_s=20, what="the lock")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        session.execute("SET lock_timeout = '50ms'; INSERT INTO app.pairs VALUES ('barred', '')")
    assert session.execute("SELECT count(*) FROM app.pairs").fetchone() == (5,)
    session.execute("SET lock_timeout = 0; INSERT INTO app.pairs VALUES ('after', '')")
    thread.join()
    assert timedelta(seconds=0.7) <= taken[0].held < timedelta(seconds=1.4)
    assert taken[0].tables["app.pairs"].rows == 5


def test_writers_wait_behind_a_request_no_longer_than_its_time_out(shop, session) -> None:
    """A long transaction is in the way; what writes meanwhile queues behind LOCK, which gives up by itself."""
    patience = Patience(timedelta(seconds=0.3), timedelta(seconds=1), timedelta(seconds=0.2))
    failed: list[GaveUp] = []

    def take() -> None:
        try:
            take_witness(shop, wanted=["app.users"], patience=patience)
        except GaveUp as exc:
            failed.append(exc)

    with connect(shop, autocommit=False) as writer:
        writer.execute("UPDATE app.users SET note = 'w' WHERE id = 1")
        thread = threading.Thread(target=take)
        thread.start()
        waits = []
        while thread.is_alive():
            began = time.monotonic()
            session.execute("UPDATE app.users SET note = 'x' WHERE id = 2")
            waits.append(time.monotonic() - began)
        thread.join()
    assert "locking 1 tables" in failed[0].message
    assert 0.1 < max(waits) < 0.3 + 0.7


def test_truncate_waits_until_the_rows_are_counted(shop, session, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRUNCATE empties a table for older snapshots too: it must not run between restore point and count."""
    counted: Callable[..., Any] = content.contents

    def truncate_first(asked: psycopg.Connection[Any], of: Any) -> Any:
        with pytest.raises(psycopg.errors.LockNotAvailable):
            session.execute("SET lock_timeout = '100ms'; TRUNCATE app.users")
        session.execute("INSERT INTO app.users (id) VALUES (1000)")  # the SHARE locks are gone
        return counted(asked, of)

    monkeypatch.setattr("dbsec.backup.drill.witness.contents", truncate_first)
    assert take_witness(shop).tables["app.users"].rows == 50


def test_row_security_refuses_and_does_not_hide(shop, session) -> None:
    with connect(shop) as admin:
        role = "w" + admin.info.dbname
        admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'w-1'; GRANT pg_read_all_data, pg_maintain TO {role}")
    reader = shop.but(user=role, password=Secret("w-1"))
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="pg_create_restore_point"):
            take_witness(reader)
        session.execute(f"GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO {role}")
        assert take_witness(reader).rows == 56
        session.execute("ALTER TABLE app.pairs ENABLE ROW LEVEL SECURITY")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            take_witness(reader)
        session.execute(f"REVOKE pg_maintain FROM {role}; ALTER TABLE app.pairs DISABLE ROW LEVEL SECURITY")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table"):
            take_witness(reader)
    finally:
        session.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_standby_takes_no_witness(cluster_factory) -> None:
    server = cluster_factory()
    server.instance.stop()
    server.instance.write("standby.signal", "")
    server.instance.start()
    with pytest.raises(BackupError, match="on the primary"):
        take_witness(server.admin)
