"""The throttle on real servers: a standby that lags, and each signal seen above its limit and below it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import psycopg
import pytest

from dbsec import backfill
from dbsec.backfill import Job, session
from dbsec.backfill.limits import ThrottleLimits, of_table
from dbsec.backfill.signals import SIGNALS
from dbsec.backfill.throttle import NotReadable, Overloaded, Throttle
from dbsec.errors import ConnectError
from dbsec.lab import ports
from dbsec.pg import Conninfo, connect, own
from dbsec.pg.instance import Instance
from dbsec.progress import Silent
from dbsec.retry import wait_until

TABLE = "app.users"
SETUP = """
CREATE SCHEMA app;
CREATE TABLE app.users (id bigint PRIMARY KEY, email text) WITH (autovacuum_enabled = off);
INSERT INTO app.users SELECT n, 'u' || n FROM generate_series(1, 3000) n;
"""


def limits(**chosen: object) -> ThrottleLimits:
    """Limits of which only the chosen ones are on, read often."""
    off = {f"max_{signal}": "off" for signal in SIGNALS}
    return of_table({**off, "read_every_ms": 20, **chosen})


def throttle(conninfo: Conninfo, **chosen: object) -> Throttle:
    return Throttle(limits(**chosen), lambda: connect(conninfo), table=TABLE)


class Told(Silent):
    """A progress that keeps what it was told."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)


@dataclass
class Waiter:
    """A worker that asks before each of its batches, in a thread of its own."""

    told: list[str] = field(default_factory=list)
    passed: int = 0
    error: Exception | None = None

    def says(self, text: str) -> bool:
        assert self.error is None, self.error
        return any(text in said for said in self.told)


@contextmanager
def waiting(held_by: Throttle) -> Iterator[Waiter]:
    """Let a worker ask at a throttle; it is told to leave in the end."""
    one, leave = Waiter(), threading.Event()

    def work() -> None:
        try:
            while not leave.wait(0.01):
                held_by.wait(one.told.append, go_on=lambda: not leave.is_set())
                one.passed += 1
        except Exception as exc:
            one.error = exc

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield one
    finally:
        leave.set()
        thread.join(20)
        held_by.close()


def held_until(conninfo: Conninfo, cause: str, relieve: Callable[[], object], **chosen: object) -> str:
    """See a worker held for ``cause`` and let go once it is relieved; returns what it said."""
    with waiting(throttle(conninfo, **chosen)) as worker:
        wait_until(lambda: worker.says(cause), within_s=20, what=f"'{cause}'")
        before = worker.passed
        assert worker.told[-1].startswith("waiting: ")
        relieve()
        wait_until(lambda: worker.passed > before, within_s=20, what="the worker to go on")
        assert "going on" in worker.told
        return next(said for said in worker.told if cause in said)


@pytest.fixture
def users(database) -> Conninfo:
    with connect(database.conninfo) as admin:
        admin.execute(SETUP)
    return database.conninfo


@dataclass
class Pair:
    """A primary and its standby."""

    primary: Conninfo
    standby: Conninfo
    follower: Instance

    def sql(self, text: str) -> list[tuple]:
        with connect(self.primary) as session:
            cursor = session.execute(text)
            return cursor.fetchall() if cursor.description else []

    def write(self, megabytes: int) -> None:
        self.sql(
            f"SELECT pg_logical_emit_message(true, '', repeat('x', 1024 * 1024)) FROM generate_series(1, {megabytes})"
        )

    def pause(self) -> None:
        with connect(self.standby) as session:
            session.execute("SELECT pg_wal_replay_pause()")
            paused = "SELECT pg_get_wal_replay_pause_state()"
            wait_until(lambda: session.execute(paused).fetchone() == ("paused",), within_s=20, what="replay to pause")

    def resume(self) -> None:
        with connect(self.standby) as session:
            session.execute("SELECT pg_wal_replay_resume()")


@pytest.fixture
def pair(cluster_factory) -> Iterator[Pair]:
    primary = cluster_factory(max_prepared_transactions="2")
    data = primary.instance.data.parent / "standby"
    (port,) = ports.free(1)
    standby = Instance(primary.instance.binaries, data, port, data.with_suffix(".log"), primary.account)
    standby.clone(primary.admin, slot="standby1")
    standby.configure({"hot_standby_feedback": "off", "wal_receiver_status_interval": "1"})
    standby.start()
    try:
        made = Pair(primary.admin, primary.admin.but(port=port), standby)
        made.sql(SETUP)
        streams = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()"
        wait_until(lambda: made.sql(streams) == [(1,)], within_s=30, what="the standby to catch up")
        yield made
    finally:
        standby.destroy()
        primary.instance.stop()


@pytest.mark.pg(15, 17, 18)
def test_a_standby_that_lags_is_waited_for(pair):
    with pytest.raises(ConnectError, match="the server is a standby"):
        session.opened(partial(connect, pair.standby))
    pair.pause()
    pair.write(3)
    said = held_until(pair.primary, "replica 'standby' is", pair.resume, max_lag_bytes="1MB")
    assert said.endswith("MB behind, limit 1 MB")

    # where a standby stands still from its start on, the server's own replay_lag stays at what it measured first
    pair.follower.stop()
    pair.follower.configure({"recovery_min_apply_delay": "1h"})
    pair.follower.start()
    pair.write(1)

    def apply_now() -> None:
        known = "SELECT coalesce(max(extract(epoch FROM replay_lag)), 0) < 0.2 FROM pg_stat_replication"
        assert pair.sql(known) == [(True,)]
        pair.follower.configure({"recovery_min_apply_delay": "0"})
        pair.follower.reload()

    said = held_until(pair.primary, "replica 'standby' is", apply_now, max_lag_s=0.2)
    assert said.endswith("s behind, limit 0.2 s")

    pair.follower.stop()
    pair.write(2)
    slot = "the idle replication slot 'standby1' is"
    held_until(pair.primary, slot, pair.follower.start, max_lag_bytes="1MB")


def test_a_backfill_waits_for_a_standby_and_goes_on(pair):
    with connect(pair.primary) as admin:
        own.install(admin)
    job = Job("fill", TABLE, ("id",), set="email = 'x' || id", batch_rows=100, batch_rows_max=100)
    told, ended = Told(), []
    pair.pause()
    pair.write(1)
    with throttle(pair.primary, max_lag_bytes="512kB") as held:
        opened = partial(connect, pair.primary)
        run = partial(backfill.run, opened, job, throttle=held, progress=told)
        thread = threading.Thread(target=lambda: ended.append(run()), daemon=True)
        thread.start()
        wait_until(lambda: any("replica 'standby' is" in step for step in told.steps), within_s=20, what="the wait")
        with connect(pair.primary) as admin:
            assert backfill.status(admin, "fill").visited == 0
        pair.resume()
        thread.join(30)
    assert "going on" in told.steps
    assert ended[0].status.visited == 3000
    assert ended[0].throttled_s > 0


def test_a_critical_lag_pauses_the_backfill_for_all(pair):
    with connect(pair.primary) as admin:
        own.install(admin)
        opened = partial(connect, pair.primary)
        job = Job("fill", TABLE, ("id",), set="email = 'x' || id", batch_rows=100, batch_rows_max=100)
        pair.pause()
        pair.write(3)
        with throttle(pair.primary, critical_lag_bytes="2MB") as held, pytest.raises(Overloaded) as stopped:
            backfill.run(opened, job, throttle=held)
        assert "replica 'standby' is" in stopped.value.message
        found = backfill.status(admin, "fill")
        assert (found.state, found.visited) == (backfill.State.PAUSED, 0)
        pair.resume()
        backfill.resume(admin, "fill")
        assert backfill.run(opened, job).state is backfill.State.DONE


def test_what_a_role_may_not_see_is_an_error_and_no_zero(pair):
    pair.sql("CREATE ROLE plain LOGIN PASSWORD 'superuser-of-a-test-cluster'")
    plain = pair.primary.but(user="plain")
    with connect(pair.primary):  # somebody else's session
        for signal in ("max_lag_bytes", "max_lag_s", "max_transaction_s", "max_xmin_age"):
            with throttle(plain, **{signal: 10**9}) as held, pytest.raises(NotReadable) as refused:
                held.wait(lambda text: None)
            assert refused.value.lasting
            assert "GRANT pg_read_all_stats" in refused.value.hint
        pair.sql("GRANT pg_read_all_stats TO plain")
        with throttle(plain, max_lag_bytes=10**9, max_lag_s=100, max_transaction_s=1000, max_xmin_age=10**6) as held:
            assert held.wait(lambda text: None) < 2


def test_prepared_transactions_keep_vacuum_back_too(pair):
    pair.sql("BEGIN; INSERT INTO app.users VALUES (-1, 'x'); PREPARE TRANSACTION 'forgotten'")
    cause = "the prepared transaction 'forgotten' is open for"
    held_until(pair.primary, cause, lambda: pair.sql("ROLLBACK PREPARED 'forgotten'"), max_transaction_s=0.1)


@pytest.mark.pg(15, 17, 18)
def test_sessions_that_wait_for_the_table_are_let_through(users):
    service = "service@blue"  # our own sessions do not count
    with connect(users, application_name=service) as other, connect(users) as blocker:
        blocker.execute("BEGIN; UPDATE app.users SET email = 'b' WHERE id = 1")  # as a batch of ours does
        queue = threading.Thread(
            daemon=True, target=lambda: other.execute("UPDATE app.users SET email = 'c' WHERE id = 1")
        )
        queue.start()
        said = held_until(users, "wait for a lock on app.users: 1", lambda: blocker.execute("COMMIT"), max_lock_waits=0)
        queue.join()
        assert said.endswith("limit 0")
        blocker.execute("BEGIN; SELECT FROM app.users LIMIT 1")
        queue = threading.Thread(
            daemon=True, target=lambda: other.execute("LOCK TABLE app.users IN ACCESS EXCLUSIVE MODE")
        )
        other.execute("BEGIN")
        queue.start()
        held_until(users, "wait for a lock on app.users: 1", lambda: blocker.execute("COMMIT"), max_lock_waits=0)
        queue.join()
        other.execute("COMMIT")
        # a wait for a row of another table is no matter of this one
        blocker.execute("CREATE TABLE app.other (id int); INSERT INTO app.other VALUES (1)")
        blocker.execute("BEGIN; UPDATE app.other SET id = 2")
        queue = threading.Thread(daemon=True, target=lambda: other.execute("UPDATE app.other SET id = 3"))
        queue.start()
        blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
        with connect(users) as admin:
            pid = [other.info.backend_pid]
            wait_until(lambda: admin.execute(blocked, pid).fetchone() == (1,), within_s=20, what="the other to wait")
        with throttle(users, max_lock_waits=0) as held:
            assert held.wait(lambda text: None) < 2
        blocker.execute("COMMIT")
        queue.join()


@pytest.mark.pg(15, 17, 18)
def test_an_old_snapshot_is_waited_for(users):
    with connect(users, application_name="report@3") as old, connect(users) as admin:
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM app.users LIMIT 1")
        said = held_until(
            users, "(report@3, idle in transaction) is open for", lambda: old.execute("COMMIT"), max_transaction_s=0.1
        )
        assert said.endswith("limit 0.1 s")
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM app.users LIMIT 1")
        for _ in range(30):
            admin.execute("SELECT pg_current_xact_id()")
        cause = "(report@3, idle in transaction) keeps vacuum"
        held_until(users, cause, lambda: old.execute("COMMIT"), max_xmin_age=20)


def test_a_log_that_grows_fast_is_waited_for(users):
    stop = threading.Event()

    def write() -> None:
        with connect(users) as session:
            while not stop.wait(0.05):
                session.execute("SELECT pg_logical_emit_message(true, '', repeat('x', 1024 * 1024))")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        held = throttle(users, max_wal_bytes_per_s="1MB")
        told: list[str] = []
        wait_until(
            lambda: held.wait(told.append, go_on=lambda: not told) >= 0 and bool(told), within_s=20, what="the rate"
        )
    finally:
        stop.set()
        thread.join()
    assert told[0].startswith("waiting: the server writes")
    assert held.wait(told.append) > 0
    held.close()


def test_dead_rows_are_waited_for(users):
    with connect(users) as admin:
        admin.execute("UPDATE app.users SET email = email || '!'; SELECT pg_stat_force_next_flush()")
        admin.execute("SELECT 1")
        said = held_until(
            users, "of the rows of app.users are dead", lambda: admin.execute("VACUUM app.users"), max_dead_share=0.2
        )
    assert said.endswith("dead, limit 20%")


def test_a_slow_probe_is_waited_for(users):
    with connect(users) as admin:
        admin.execute("CREATE TABLE app.pace (s float8); INSERT INTO app.pace VALUES (0.05)")
        said = held_until(
            users,
            "the 95th percentile of the probe query is",
            lambda: admin.execute("UPDATE app.pace SET s = 0"),
            probe="SELECT pg_sleep(s) FROM app.pace",
            max_probe_p95_ms=30,
        )
    assert said.endswith("limit 30.0 ms")


def test_a_probe_that_is_cut_off_counts_its_whole_time(users):
    with (
        throttle(
            users, probe="SELECT pg_sleep(60)", critical_probe_p95_ms=150, max_probe_p95_ms=100, reading_timeout_ms=200
        ) as held,
        pytest.raises(Overloaded, match=r"is 200\.0 ms, limit 150\.0 ms"),
    ):
        held.wait(lambda text: None)


def test_a_query_of_the_site_may_ask_to_wait(users):
    with connect(users) as admin:
        admin.execute("CREATE TABLE app.busy (now boolean); INSERT INTO app.busy VALUES (true)")
        held_until(
            users,
            "wait_query says so",
            lambda: admin.execute("UPDATE app.busy SET now = NULL"),
            wait_query="SELECT now FROM app.busy",
        )


@pytest.mark.parametrize(
    ("query", "why", "lasting"),
    [
        ("SELECT 'the secret value'", "must give one row with one boolean", True),
        ("SELECT true UNION ALL SELECT false", "must give one row with one boolean", True),
        ("SELECT now FROM nowhere", 'UndefinedTable 42P01: relation "nowhere" does not exist', True),
        ("SELECT true; DELETE FROM app.users", "SyntaxError 42601: cannot insert multiple commands", True),
        ("DELETE FROM app.users RETURNING true", "ReadOnlySqlTransaction 25006", False),
        ("SELECT 'the secret value'::int > 1", "InvalidTextRepresentation 22P02", False),
    ],
)
def test_a_query_of_the_site_can_neither_write_nor_leak(users, query, why, lasting):
    with throttle(users, wait_query=query, unread_s=0) as held, pytest.raises(NotReadable) as refused:
        held.wait(lambda text: None)
    assert why in refused.value.message
    assert refused.value.lasting is lasting
    assert "secret" not in refused.value.message
    with connect(users) as admin:
        assert admin.execute("SELECT count(*) FROM app.users").fetchone() == (3000,)


def test_a_table_that_is_not_there_is_told_at_once(users):
    misspelt = Throttle(limits(max_lock_waits=0), lambda: connect(users), table="app.usres")
    with misspelt as held, pytest.raises(NotReadable, match=r"no table 'app\.usres'"):
        held.wait(lambda text: None)


@pytest.mark.pg(15, 17, 18)
def test_a_session_that_was_ended_is_opened_again(users):
    opened: list[psycopg.Connection] = []

    def open_one() -> psycopg.Connection:
        opened.append(connect(users))
        return opened[-1]

    with Throttle(limits(max_lock_waits=0), open_one, table=TABLE) as held, connect(users) as admin:
        held.wait(lambda text: None)
        gone = opened[0].info.backend_pid
        admin.execute("SELECT pg_terminate_backend(%s, 10000)", [gone])
        told: list[str] = []
        wait_until(lambda: held.wait(told.append) >= 0 and len(opened) == 2, within_s=20, what="a second session")
    assert "waiting: the server cannot be read: AdminShutdown 57P01" in told
    assert told[-1] == "going on"


def test_workers_share_one_session_and_its_readings(users):
    opened: list[psycopg.Connection] = []

    def open_one() -> psycopg.Connection:
        opened.append(connect(users))
        return opened[-1]

    held = Throttle(limits(max_lock_waits=0, read_every_ms=60_000), open_one, table=TABLE)
    held.wait(lambda text: None)
    workers = [threading.Thread(target=lambda: [held.wait(lambda text: None) for _ in range(200)]) for _ in range(4)]
    with connect(users) as admin:
        asked = "SELECT query_start FROM pg_stat_activity WHERE pid = %s"
        before = admin.execute(asked, [opened[0].info.backend_pid]).fetchone()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert admin.execute(asked, [opened[0].info.backend_pid]).fetchone() == before
    assert len(opened) == 1
    held.close()
