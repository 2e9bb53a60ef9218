"""What ends a backup before its end: a kill, a cut, a store or a server that goes away. None of it leaves one."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import taken
from tests.backup_bed import Bed, bed_of

from dbsec import process
from dbsec.backup import catalog
from dbsec.backup.base import protocol
from dbsec.backup.base.options import TakeOptions
from dbsec.backup.base.overview import State, entries
from dbsec.backup.base.taking import take
from dbsec.errors import ConnectError, GaveUp, ProgramError
from dbsec.lab import ports
from dbsec.pg import connect
from dbsec.pg.instance import Instance
from dbsec.progress import Silent
from dbsec.retry import wait_until
from dbsec.testing.clusters import Cluster
from dbsec.testing.proxy import Proxy

SLOW = TakeOptions(compress="client", rate_bytes_s=12 << 20)
# a taker that ends itself before the put of a number, or whose files may have so many bytes
CHILD = """
import json, os, resource, signal, sys
from dbsec.backup import BackupSettings, open_repository
from dbsec.backup.base.taking import TakeOptions, take
from dbsec.pg import Conninfo
from dbsec.progress import Silent
from dbsec.store.file import FileStore

told = json.load(sys.stdin)
puts, put = 0, FileStore.put

def counted(self, name, data):
    global puts
    puts += 1
    if puts == told["kill_at"]:
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, name, data)

FileStore.put = counted
if told["most_bytes"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (told["most_bytes"], told["most_bytes"]))
repository = open_repository(BackupSettings(**told["settings"]), environ=told["environ"])
options = TakeOptions(compress="client", workers=1, engine=told["engine"])
take(repository, Conninfo.parse(told["dsn"]), options, progress=Silent())
"""


@pytest.fixture(scope="module")
def server(cluster_factory: Callable[..., Cluster]) -> Cluster:
    made: Cluster = cluster_factory(autovacuum="off", wal_level="replica")
    return made


@pytest.fixture
def bed(server: Cluster, tmp_path: Path) -> Bed:
    return bed_of(server, tmp_path)


def run_child(bed: Bed, server: Cluster, *, kill_at: int = 0, most_bytes: int = 0, engine: str = "protocol") -> None:
    told = {
        "settings": {"store": bed.settings.store, "kms": bed.settings.kms},
        "environ": bed.environ,
        "dsn": server.admin.text(),
        "kill_at": kill_at,
        "engine": engine,
        "most_bytes": most_bytes,
    }
    process.run([sys.executable, "-P", "-c", CHILD], cwd=bed.folder, stdin=json.dumps(told), timeout_s=60)


def walsenders(server: Cluster, waiting_for: str = "") -> int:
    with connect(server.admin) as session:
        row = session.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND %s IN ('', wait_event)",
            [waiting_for],
        ).fetchone()
    return int(row[0]) if row else 0


def nothing_is_left(server: Cluster, bed: Bed) -> None:
    """No backup looks whole, no session of the taker stays, and the next one succeeds."""
    assert all(entry.state is State.UNFINISHED for entry in entries(bed.again()))
    assert catalog.backups(bed.again()) == []
    wait_until(lambda: walsenders(server) == 0, within_s=20, what="the taker's session to end")
    assert take(bed.again(), server.admin, TakeOptions(), progress=Silent()) in catalog.backups(bed.again())


# its puts: the epoch's key, one slice, the list of its files, the manifest, the description
@pytest.mark.parametrize("kill_at", [1, 2, 3, 4, 5], ids=["key", "data", "members", "manifest", "description"])
def test_a_killed_taker_leaves_no_backup(server: Cluster, bed: Bed, kill_at: int) -> None:
    with pytest.raises(ProgramError) as caught:
        run_child(bed, server, kill_at=kill_at)
    assert caught.value.code == -signal.SIGKILL
    found = entries(bed.again())
    assert [(entry.state, entry.objects) for entry in found] == [(State.UNFINISHED, kill_at - 2)] * (kill_at > 2)
    nothing_is_left(server, bed)


def test_a_taker_of_ranges_that_is_killed_at_any_put_leaves_no_backup(server: Cluster, bed: Bed) -> None:
    for kill_at in range(1, 20):
        code = ended_by(bed, server, kill_at)
        if not code:
            break
        assert code == -signal.SIGKILL
        assert {entry.state for entry in entries(bed.again())} <= {State.UNFINISHED}
        wait_until(lambda: in_backup(server) == 0, within_s=10, what="its session to end")
    assert kill_at > 4
    assert [entry.state for entry in entries(bed.again())].count(State.FINISHED) == 1


def ended_by(bed: Bed, server: Cluster, kill_at: int) -> int:
    try:
        run_child(bed, server, kill_at=kill_at, engine="ranges")
    except ProgramError as exc:
        return exc.code or 0
    return 0


def in_backup(server: Cluster) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_backup_start%' AND pid <> pg_backend_pid()"
    with connect(server.admin) as session:
        (found,) = session.execute(query).fetchone() or (0,)
    return int(found)


def test_a_store_that_is_full_is_told_at_once(server: Cluster, bed: Bed) -> None:
    with pytest.raises(ProgramError, match=r"StoreFull: .*File too large"):
        run_child(bed, server, most_bytes=1 << 20)
    nothing_is_left(server, bed)


class _At(Silent):
    """Does something once, when the stream has begun to flow."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act: Callable[[], object] | None = act

    def count(self, text: str, done: int, total: int) -> None:
        if self._act is not None:
            act, self._act = self._act, None
            act()


@pytest.fixture
def proxy(server: Cluster) -> Iterator[Proxy]:
    with Proxy(server.instance.port) as made:
        yield made


def test_a_network_that_cuts_is_told_and_leaves_nothing(server: Cluster, bed: Bed, proxy: Proxy) -> None:
    with pytest.raises(ConnectError, match=r"was lost: .*is not finished") as caught:
        take(bed.repository, server.admin.but(port=proxy.port), SLOW, progress=_At(proxy.cut))
    assert "dbsec backup take" in caught.value.hint
    nothing_is_left(server, bed)


def test_a_network_that_swallows_all_is_not_waited_for(server: Cluster, bed: Bed, proxy: Proxy, monkeypatch) -> None:
    monkeypatch.setattr(protocol, "SILENCE_S", 1.0)
    # the request to cancel goes into the same hole, and is given up soon
    with pytest.raises(ConnectError, match="has said nothing for 1 s"):
        take(bed.repository, server.admin.but(port=proxy.port), SLOW, progress=_At(proxy.black_hole))
    proxy.forward()
    nothing_is_left(server, bed)


def test_a_store_that_goes_away_is_asked_for_a_while(server: Cluster, bed: Bed) -> None:
    gone = bed.folder / "gone"
    with pytest.raises(GaveUp, match="did not succeed within 2 s"):
        take(bed.repository, server.admin, SLOW, progress=_At(lambda: bed.store_folder.rename(gone)))
    gone.rename(bed.store_folder)
    nothing_is_left(server, bed)


def test_a_server_that_stops_is_told(cluster_factory, tmp_path: Path) -> None:
    server = cluster_factory()
    bed = bed_of(server, tmp_path)
    with pytest.raises(ConnectError, match="is not finished"):
        take(bed.repository, server.admin, SLOW, progress=_At(server.instance.stop))
    server.instance.start()
    nothing_is_left(server, bed)
    server.instance.stop()


def test_ctrl_c_ends_the_server_s_work_too(server: Cluster, bed: Bed) -> None:
    dsn = bed.folder / "dsn"
    dsn.write_text(server.admin.text())
    dsn.chmod(0o600)
    config = f'[backup]\nstore = "{bed.settings.store}"\nkms = "{bed.settings.kms}"\ndsn = "file:{dsn}"\n'
    (bed.folder / "dbsec.toml").write_text(config)
    log = bed.folder / "log"
    with connect(server.admin) as session:
        session.execute("CREATE TABLE dirty (i int, t text)")
        session.execute("INSERT INTO dirty SELECT i, md5(i::text) FROM generate_series(1, 80000) i")
    # spread over minutes: a server that waits for it writes nothing, and does not see that its client has gone
    argv = [Path(sys.executable).parent / "dbsec", "backup", "take", "--checkpoint", "spread"]
    taker = process.spawn(argv, cwd=bed.folder, log=log, env=bed.environ)
    wait_until(lambda: walsenders(server, "CheckpointDone") == 1, within_s=30, what="the checkpoint")
    os.kill(taker.pid, signal.SIGINT)
    wait_until(lambda: not taker.alive, within_s=10, what="the end of the taker")
    assert os.waitstatus_to_exitcode(os.waitpid(taker.pid, 0)[1]) == 130
    nothing_is_left(server, bed)


@pytest.fixture
def standby(server: Cluster) -> Iterator[Cluster]:
    (port,) = ports.free(1)
    data = server.instance.data.parent / f"standby-{port}"
    made = Instance(server.instance.binaries, data, port, data.with_suffix(".log"), server.account)
    made.clone(server.admin, slot=f"s{port}")
    made.start()
    yield Cluster(made, server.admin.but(port=port), server.account)
    made.destroy()
    with connect(server.admin) as session:
        wait_until(
            lambda: session.execute("SELECT NOT active FROM pg_replication_slots").fetchone() == (True,),
            within_s=10,
            what="the slot to be free",
        )
        session.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


def test_a_standby_is_a_source_until_it_is_promoted(standby: Cluster, bed: Bed, tmp_path: Path) -> None:
    backup = take(bed.repository, standby.admin, TakeOptions(), progress=Silent())
    assert (backup.source, backup.system) == ("standby", bed.repository.system)
    assert "successfully verified" in taken.check_files(standby, taken.unpack(bed.repository, backup, tmp_path / "r"))

    def promote() -> None:
        with connect(standby.admin) as session:
            session.execute("SELECT pg_promote()")

    with pytest.raises(ConnectError, match=r"standby was promoted during online backup.*is not finished") as caught:
        take(bed.repository, standby.admin, SLOW, progress=_At(promote))
    assert caught.value.sqlstate == "55000"
    assert [one.id for one in catalog.backups(bed.repository)] == [backup.id]
