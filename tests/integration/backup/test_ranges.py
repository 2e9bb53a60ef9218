"""Base backups by ranges of files: whole under load, from a standby too, and never of another server's folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from tests.restore_bed import Site, site

from dbsec.backup import Backup, WrongCluster, catalog
from dbsec.backup.base import local_folder, range_storing
from dbsec.backup.base.options import TakeOptions
from dbsec.backup.base.overview import State, entries
from dbsec.backup.base.taking import take
from dbsec.backup.catalog import Layout
from dbsec.backup.errors import DamagedPages
from dbsec.errors import ConnectError, UsageError
from dbsec.lab import ports
from dbsec.pg import Conninfo, connect
from dbsec.pg.instance import Instance
from dbsec.progress import Silent
from dbsec.retry import wait_until
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster

RANGES = TakeOptions(engine="ranges", label="by ranges")
PACE = TakeOptions(engine="ranges", rate_bytes_s=24 << 20)
ACCOUNTS = 20_000
SAME = (
    "SELECT (SELECT count(*) || ' ' || sum(balance) || ' ' || sum(hashtext(a::text)) FROM accounts a),"
    " (SELECT count(*) || ' ' || coalesce(sum(hashtext(h::text)), 0) FROM history h),"
    " (SELECT count(*) FROM pg_class WHERE relname LIKE 'churn%'), (SELECT count(*) FROM grown)"
)


@pytest.fixture(scope="module")
def bank(cluster_factory: Callable[..., Cluster], server_root: Path) -> Iterator[Site]:
    with site(cluster_factory, server_root, "ranges", autovacuum="on", autovacuum_naptime="1s") as made:
        space = made.folder / "space"
        space.mkdir()
        if made.owner:
            os.chown(space, *made.owner)
        made.sql(
            f"CREATE TABLESPACE far LOCATION '{space}'",  # type: ignore[arg-type]
            f"CREATE TABLE accounts AS SELECT i AS id, 100 AS balance, repeat(md5(i::text), 20) AS pad"  # type: ignore[arg-type]
            f" FROM generate_series(1, {ACCOUNTS}) i",
            "CREATE UNIQUE INDEX accounts_id ON accounts (id)",
            "CREATE TABLE history (a int, b int, at timestamptz DEFAULT clock_timestamp()) TABLESPACE far",
            "CREATE TABLE grown (pad text)",
            "CREATE UNLOGGED TABLE fleeting AS SELECT i FROM generate_series(1, 20000) i",
            "CHECKPOINT",
        )
        yield made


@pytest.fixture
def small_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a small cluster take many objects, so that reads and writes meet."""
    monkeypatch.setattr(range_storing, "OBJECT_BYTES", 1 << 19)


@contextmanager
def load(server: Conninfo) -> Iterator[list[int]]:
    """Move money, make and drop tables, grow and truncate, until the block ends; yields how often each was done."""
    over, done = threading.Event(), [0, 0]
    failed: list[BaseException] = []

    def move() -> None:
        with connect(server) as session:
            while not over.is_set():
                a, b = 1 + done[0] * 7919 % ACCOUNTS, 1 + done[0] * 104729 % ACCOUNTS
                with session.transaction():
                    session.execute("UPDATE accounts SET balance = balance - 1 WHERE id = %s", [a])
                    session.execute("UPDATE accounts SET balance = balance + 1 WHERE id = %s", [b])
                    session.execute("INSERT INTO history (a, b) VALUES (%s, %s)", [a, b])
                done[0] += 1

    def churn() -> None:
        with connect(server) as session:
            while not over.is_set():
                session.execute("CREATE TABLE churn AS SELECT repeat('x', 900) AS pad FROM generate_series(1, 2000)")
                session.execute("INSERT INTO grown SELECT pad FROM churn LIMIT 300")
                session.execute("TRUNCATE grown" if done[1] % 3 == 2 else "DELETE FROM grown WHERE ctid > '(20,0)'")
                session.execute("VACUUM grown")
                session.execute("DROP TABLE churn")
                session.execute("CHECKPOINT")
                done[1] += 1

    def guarded(act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException as exc:  # raised below
            failed.append(exc)

    threads = [threading.Thread(target=guarded, args=[act]) for act in (move, churn)]
    for one in threads:
        one.start()
    try:
        yield done
    finally:
        over.set()
        for one in threads:
            one.join()
    assert not failed, failed


def taken(bank: Site, options: TakeOptions, server: Conninfo | None = None, **told) -> Backup:
    return take(bank.bed.repository, server or bank.cluster.admin, options, progress=told.get("progress", Silent()))


def check_copy(bank: Site, backup: Backup) -> None:
    """Restore to the end of the WAL: PostgreSQL finds every file, and what is in the tables is the same."""
    bank.archived()
    told = bank.sql(SAME)
    remap = {one.path: str(bank.folder / f"space-{backup.id}") for one in backup.tablespaces}
    done = bank.restore(bank.plan(backup=backup.id), remap=remap)
    assert done.unverified == ""
    with bank.copy(done) as copy, connect(copy.admin) as session:
        assert session.execute(SAME).fetchall() == told
        assert session.execute("SELECT sum(balance) FROM accounts").fetchone() == (100 * ACCOUNTS,)
        assert session.execute("SELECT count(*) FROM fleeting").fetchone() == (0,)
        session.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
        session.execute("SELECT bt_index_check(c.oid, true) FROM pg_class c WHERE relname = 'accounts_id'")
        session.execute("SELECT * FROM verify_heapam('accounts')")


@pytest.mark.pg(15, 17, 18)
@pytest.mark.usefixtures("small_objects")
def test_a_backup_under_load_is_whole(bank: Site) -> None:
    with load(bank.cluster.admin) as done:
        wait_until(lambda: min(done) > 0, within_s=10, what="the load")
        before = list(done)
        backup = taken(bank, replace(PACE, label="by ranges"))
        during = [now - then for now, then in zip(done, before, strict=True)]
    assert min(during) > 1, "nothing was written meanwhile"
    assert (backup.layout, backup.engine, backup.source, backup.label) == (
        Layout.RANGES, "ranges", "primary", "by ranges"
    )  # fmt: skip
    assert backup.page_checksums
    assert backup == catalog.get_backup(bank.bed.again(), backup.id)
    data = [backup.archives[0].objects, backup.archives[1].objects]
    assert len(data[0]) > 20
    stored = sum((bank.bed.store_folder / name).stat().st_size for name in list(backup.objects())[:-1])
    assert backup.stored_bytes == stored
    check_copy(bank, backup)


def test_from_a_standby(bank: Site) -> None:
    with _standby(bank) as (standby, instance):
        with load(bank.cluster.admin) as done:
            wait_until(lambda: min(done) > 1, within_s=10, what="the load")
            backup = taken(bank, RANGES, standby)
        assert backup.source == "standby"
        check_copy(bank, backup)
        with connect(bank.cluster.admin) as session, connect(standby) as other:
            asked = local_folder.ask(session)
            with pytest.raises(WrongCluster, match="another server of the same cluster"):
                local_folder.check_folder(session, replace(asked, folder=instance.data))
            with pytest.raises(WrongCluster, match="another server of the same cluster"):
                local_folder.check_folder(other, replace(local_folder.ask(other), folder=asked.folder))
            with pytest.raises(UsageError, match="cannot be read from here"):
                local_folder.check_folder(session, replace(asked, folder=bank.folder / "elsewhere"))
            with pytest.raises(WrongCluster, match="is of the cluster"):
                local_folder.check_folder(session, replace(asked, system=asked.system + 1))


@contextmanager
def _standby(bank: Site) -> Iterator[tuple[Conninfo, Instance]]:
    port = ports.free(1)[0]
    folder = bank.folder / "standby"
    folder.mkdir()
    if bank.owner:
        os.chown(folder, *bank.owner)
    made = replace(bank.cluster.instance, data=folder / "data", port=port, log=folder / "server.log")
    space = bank.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'far'")[0][0]
    primary = bank.cluster.admin
    with connect(primary) as session:
        session.execute("ALTER TABLE history SET TABLESPACE pg_default")
        session.execute("DROP TABLESPACE far")  # on one machine its folder would be that of both
    made.clone(primary, slot="copy")
    try:
        made.start()
        yield primary.but(port=port), made
    finally:
        made.destroy()
        with connect(primary) as session:
            session.execute("SELECT pg_drop_replication_slot('copy')")
            session.execute(f"CREATE TABLESPACE far LOCATION '{space}'")  # type: ignore[arg-type]


def test_whoever_has_no_right_is_told_which(bank: Site) -> None:
    server = bank.cluster.admin.but(user="reader", password=Secret("not-for-logs"))
    bank.sql("CREATE ROLE reader LOGIN PASSWORD 'not-for-logs'")
    with pytest.raises(UsageError, match="data folder") as caught:
        taken(bank, RANGES, server)
    bank.sql(caught.value.hint)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="PostgreSQL refuses") as caught:
        taken(bank, RANGES, server)
    bank.sql(caught.value.hint.replace("the login", "reader"))  # type: ignore[arg-type]
    assert taken(bank, RANGES, server).source == "primary"


@pytest.mark.parametrize(
    "options",
    [replace(RANGES, incremental=True), replace(RANGES, parent="x"), replace(RANGES, compress="server")],
    ids=["incremental", "parent", "server"],
)
def test_what_only_the_protocol_can_is_refused(bank: Site, options: TakeOptions) -> None:
    with pytest.raises(UsageError, match="file ranges"):
        taken(bank, options)


@contextmanager
def unfinished(bank: Site) -> Iterator[None]:
    """What is begun in the block must not look like a backup after it."""
    before = catalog.ids(bank.bed.repository)
    yield
    (new,) = [one for one in entries(bank.bed.again()) if one.id not in before]
    assert new.state is State.UNFINISHED
    assert new.objects > 0


@dataclass
class _Ends(Silent):
    """Ends the session that holds the backup once something was read."""

    bank: Site

    def count(self, text: str, done: int, total: int) -> None:
        self.bank.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query LIKE '%timeline_id%' AND pid <> pg_backend_pid()"
        )


@pytest.mark.usefixtures("small_objects")
def test_a_session_that_is_lost_makes_no_backup(bank: Site) -> None:
    with unfinished(bank), pytest.raises(ConnectError, match="is not finished"):
        taken(bank, PACE, progress=_Ends(bank))


@pytest.fixture
def damaged(bank: Site) -> Iterator[Path]:
    # a vacuum would change the page in memory, and the next checkpoint would write it over ours
    still = "CREATE TABLE hurt WITH (autovacuum_enabled = off) AS SELECT i FROM generate_series(1, 4000) i"
    bank.sql(still, "CHECKPOINT")
    path = bank.cluster.instance.data / bank.sql("SELECT pg_relation_filepath('hurt')")[0][0]
    whole = path.read_bytes()
    raw = bytearray(whole)
    raw[2 * 8192 + 5000] ^= 1
    path.write_bytes(raw)
    yield path
    path.write_bytes(whole)
    bank.sql("DROP TABLE hurt")


def test_a_damaged_page_makes_no_backup(bank: Site, damaged: Path) -> None:
    with unfinished(bank), pytest.raises(DamagedPages, match=rf"block 2 of 'base/\d+/{damaged.name}'"):
        taken(bank, RANGES)
    # a page that claims to be of the future is not excused by its LSN
    raw = bytearray(damaged.read_bytes())
    raw[2 * 8192 : 2 * 8192 + 8] = b"\x7f" * 8
    damaged.write_bytes(raw)
    with pytest.raises(DamagedPages):
        taken(bank, RANGES)


def test_without_page_checksums_none_are_claimed(bank: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(session: psycopg.Connection) -> local_folder.Server:
        return replace(asked(session), checksums=False)

    asked = local_folder.ask
    monkeypatch.setattr(local_folder, "ask", without)
    assert not taken(bank, RANGES).page_checksums
