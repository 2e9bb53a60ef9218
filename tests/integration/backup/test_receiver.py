"""The streaming receiver on real servers: what was acknowledged is there after any death, and no hole is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.backup_bed import bed_of, make_bed
from tests.restore_bed import Site, site

from dbsec.backup.base.replication import open_replication
from dbsec.backup.errors import ContentConflict, WrongCluster
from dbsec.backup.wal import commands, frontier, pieces, slot
from dbsec.backup.wal.names import Segment, object_name
from dbsec.backup.wal.receiver import ReceiveOptions, Receiver
from dbsec.backup.wal.slot import SlotLost
from dbsec.clock import SYSTEM
from dbsec.errors import UsageError
from dbsec.lab import ports
from dbsec.pg import Conninfo, connect
from dbsec.pg.instance import Instance
from dbsec.pg.lsn import Lsn
from dbsec.progress import Silent
from dbsec.retry import wait_until
from dbsec.testing.clusters import Cluster
from dbsec.testing.proxy import Proxy

SOON = ReceiveOptions(every=timedelta(milliseconds=100))
LIMITS = {"max_slot_wal_keep_size": "512MB", "autovacuum": "off"}


class Said(Silent):
    """Keeps what was told."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)


@dataclass
class Running:
    """A receiver in a thread, and what ended it."""

    receiver: Receiver
    said: Said
    failed: list[BaseException] = field(default_factory=list)

    def reaches(self, lsn: Lsn, *, within_s: float = 20) -> None:
        what = f"{lsn}: {self.said.steps}"
        wait_until(lambda: bool(self.failed) or self.receiver.acknowledged >= lsn, within_s=within_s, what=what)
        assert not self.failed


@contextmanager
def receiving(place: Site, *, server: Conninfo | None = None, options: ReceiveOptions = SOON) -> Iterator[Running]:
    ended, said = threading.Event(), Said()
    receiver = Receiver(place.bed.again(), server or place.cluster.admin, options, ended=ended.is_set, progress=said)
    running = Running(receiver, said)

    def run() -> None:
        try:
            receiver.run()
        except BaseException as exc:
            running.failed.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield running
    finally:
        ended.set()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def place(cluster_factory: Callable[..., Cluster], server_root: Path) -> Iterator[Site]:
    with alone(cluster_factory, server_root, "receiver") as made:
        made.sql("CREATE TABLE marks (n int)")
        yield made


@contextmanager
def alone(make: Callable[..., Cluster], server_root: Path, name: str, **settings: str) -> Iterator[Site]:
    """A server whose WAL only a receiver takes."""
    folder = server_root / f"{name}-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    (folder / "bed").mkdir(mode=0o700)
    cluster = make(**{**LIMITS, **settings})
    bed = bed_of(cluster, folder / "bed")
    made = Site(cluster, bed, folder, commands.install_client(folder), commands.find_python(cluster.account))
    if made.owner is not None:
        os.chown(folder, *made.owner)
    try:
        yield made
    finally:
        cluster.instance.stop()
        shutil.rmtree(folder, ignore_errors=True)


def mark(place: Site, number: int, admin: Conninfo | None = None) -> Lsn:
    """Commit a row and return where its commit was flushed."""
    with connect(admin or place.cluster.admin) as session:
        session.execute("INSERT INTO marks VALUES (%s)", (number,))
        return lsn_of(session)


def lsn_of(session: Any) -> Lsn:
    return Lsn.parse(session.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()[0])


def marks(place: Site, **target: Any) -> list[int]:
    with place.copy(place.restore(place.plan(**target))) as copy, connect(copy.admin) as session:
        return [row[0] for row in session.execute("SELECT n FROM marks ORDER BY n")]


def no_hole(place: Site) -> None:
    assert [reach.holes for reach in frontier.reaches(place.bed.again())] == [()] * len(
        frontier.reaches(place.bed.again())
    )


@pytest.mark.pg(15, 17, 18)
def test_what_was_committed_seconds_before_a_crash_is_restored(place: Site) -> None:
    with receiving(place) as running:
        place.take()
        began = SYSTEM.monotonic()
        running.reaches(mark(place, 1))
        rpo_s = SYSTEM.monotonic() - began
        # no segment was switched: it lies in pieces
        assert list(pieces.by_segment(place.bed.again(), Segment.at(1, running.receiver.acknowledged, 16 << 20)))
    print(f"a commit was in the repository after {rpo_s:.2f} s")
    assert 1 in marks(place, latest=True)
    no_hole(place)


CHILD = """
import os, signal, sys, threading
from datetime import timedelta
from pathlib import Path
from dbsec.backup import BackupSettings, open_repository
from dbsec.backup.wal.receiver import Receiver, ReceiveOptions
from dbsec.pg import Conninfo
from dbsec.store.file import FileStore

settings, at = BackupSettings(store=sys.argv[1], kms=sys.argv[2]), int(sys.argv[3])
put, calls = FileStore.put, 0
def dies(self, name, data):
    global calls
    calls += 1
    if calls * 2 - 1 == at:
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, name, data)
    if calls * 2 == at:
        os.kill(os.getpid(), signal.SIGKILL)
FileStore.put = dies
repository = open_repository(settings, environ=os.environ)
options = ReceiveOptions(every=timedelta(milliseconds=20))
Receiver(repository, Conninfo.parse(os.environ["DSN"]), options, ended=lambda: False).run()
"""


def test_a_receiver_that_is_killed_at_any_put_loses_nothing(place: Site) -> None:
    environ = {**os.environ, **place.bed.environ, "DSN": place.cluster.admin.text()}
    with receiving(place) as running:
        place.take()
        running.reaches(mark(place, 100))
    for at in range(1, 9):
        told = [place.bed.settings.store, place.bed.settings.kms, str(at)]
        with subprocess.Popen([sys.executable, "-c", CHILD, *told], env=environ) as child:
            number = 100 + at
            # more is written until it has died of a put; each second one fills a segment
            while child.poll() is None:
                mark(place, number)
                if at % 2:
                    place.sql("SELECT pg_switch_wal()")
                with suppress(subprocess.TimeoutExpired):
                    child.wait(0.05)
            assert child.returncode == -signal.SIGKILL
        with connect(place.cluster.admin) as session:
            row = session.execute("SELECT restart_lsn::text FROM pg_replication_slots").fetchone()
        (reach,) = frontier.reaches(place.bed.again())
        # what the server has been told, and may forget, is there
        assert reach.end >= Lsn.parse(row[0])
        assert reach.holes == ()
    with receiving(place) as running:
        running.reaches(mark(place, 109))
    with connect(place.cluster.admin) as session:
        want = [row[0] for row in session.execute("SELECT n FROM marks ORDER BY n")]
    assert marks(place, latest=True) == want


def test_a_network_that_is_cut_and_a_store_that_is_away_lose_nothing(place: Site) -> None:
    with Proxy(place.cluster.instance.port) as proxy:
        server = place.cluster.admin.but(port=proxy.port)
        with receiving(place, server=server) as running:
            running.reaches(mark(place, 200))
            proxy.cut()
            last = mark(place, 201)
            wait_until(lambda: any("again in" in step for step in running.said.steps), within_s=20, what="the cut")
            proxy.forward()
            running.reaches(last)
            store = place.bed.store_folder
            store.rename(store.with_name("away"))
            last = mark(place, 202)
            wait_until(lambda: "store" in running.said.steps[-1], within_s=30, what=f"{running.said.steps}")
            assert running.receiver.acknowledged < last
            store.with_name("away").rename(store)
            running.reaches(last, within_s=40)
    no_hole(place)


def test_archiver_and_receiver_put_the_same(cluster_factory: Callable[..., Cluster], server_root: Path) -> None:
    with site(cluster_factory, server_root, "both", **LIMITS) as made:
        made.sql("CREATE TABLE marks (n int)")
        with receiving(made) as running:
            for number in range(3):
                mark(made, number)
                end = made.archived()
            running.reaches(end)
            with connect(made.cluster.admin) as session:
                assert session.execute("SELECT failed_count FROM pg_stat_archiver").fetchone() == (0,)
        no_hole(made)
        assert running.said.steps == [one for one in running.said.steps if one.startswith("receiving timeline 1")]


def test_a_promotion_is_followed(place: Site) -> None:
    data = place.folder / "standby"
    (port,) = ports.free(1)
    instance = place.cluster.instance
    standby = Instance(instance.binaries, data, port, data.with_suffix(".log"), place.cluster.account)
    with receiving(place) as running:
        standby.clone(place.cluster.admin, slot="standby1")
        standby.start()
        running.reaches(mark(place, 299))
    admin = place.cluster.admin.but(port=port)
    options = ReceiveOptions(slot="of_standby", every=SOON.every)
    try:
        with receiving(place, server=admin, options=options) as running:
            running.reaches(mark(place, 300))
            with connect(admin) as session:
                session.execute("SELECT pg_promote()")
            running.reaches(mark(place, 301, admin), within_s=40)
            # what the old primary still writes belongs to nobody's timeline 2
            mark(place, 302)
        second = frontier.reaches(place.bed.again(), timeline=2)
        assert [reach.holes for reach in second] == [()]
        restored = marks(place, latest=True)
    finally:
        standby.destroy()
        place.sql("SELECT pg_drop_replication_slot('standby1')")
    assert {300, 301} <= set(restored)
    assert 302 not in restored


def test_another_history_is_refused(place: Site) -> None:
    """A server that went back in time without a new timeline writes other WAL under the same names."""
    with receiving(place) as running:
        place.sql("SELECT pg_switch_wal()")
        running.reaches(mark(place, 400))
        last = running.receiver.acknowledged
    segment = Segment.at(1, last, 16 << 20).next
    place.bed.repository.put(object_name(segment.name), b"of another history", timeline=1)
    with receiving(place) as running:
        place.sql("SELECT pg_switch_wal()", "INSERT INTO marks VALUES (401)", "SELECT pg_switch_wal()")
        wait_until(lambda: bool(running.failed), within_s=20, what="the conflict")
    assert isinstance(running.failed[0], ContentConflict)
    (place.bed.store_folder / object_name(segment.name)).unlink()


def test_a_slot_without_a_limit_another_cluster_and_a_second_receiver(place: Site, tmp_path: Path) -> None:
    place.cluster.instance.configure({"max_slot_wal_keep_size": "-1"})
    place.cluster.instance.reload()
    try:
        with receiving(place) as running:
            wait_until(lambda: bool(running.failed), within_s=20, what="the refusal")
        assert isinstance(running.failed[0], UsageError)
        with receiving(place, options=ReceiveOptions(every=SOON.every, unlimited=True)) as running:
            running.reaches(mark(place, 500))
            with receiving(place, options=ReceiveOptions(every=SOON.every, unlimited=True)) as second:
                wait_until(lambda: any("is active" in one for one in second.said.steps), within_s=20, what="a refusal")
    finally:
        place.cluster.instance.configure({"max_slot_wal_keep_size": "512MB"})
        place.cluster.instance.reload()
    other = make_bed(tmp_path)
    with pytest.raises(WrongCluster):
        Receiver(other.again(), place.cluster.admin, SOON, ended=lambda: False).run()


def test_a_slot_that_is_lost_says_what_to_do(cluster_factory: Callable[..., Cluster], server_root: Path) -> None:
    small = {"max_slot_wal_keep_size": "16MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}
    with alone(cluster_factory, server_root, "lost", **small) as made:
        made.sql("CREATE TABLE marks (n int)")
        with receiving(made) as running:
            running.reaches(mark(made, 1))
        for number in range(6):
            mark(made, number)
            made.sql("SELECT pg_switch_wal()", "CHECKPOINT")
        with receiving(made) as running:
            wait_until(lambda: bool(running.failed), within_s=20, what=f"{running.said.steps}")
        assert isinstance(running.failed[0], SlotLost)
        assert "--drop-slot" in running.failed[0].hint
        with open_replication(made.cluster.admin) as session:
            assert slot.drop(session, slot.DEFAULT)
            assert not slot.drop(session, slot.DEFAULT)
        with receiving(made) as running:
            running.reaches(mark(made, 9))
        assert any("there is a hole" in step for step in running.said.steps)
        (reach,) = frontier.reaches(made.bed.again())
        assert len(reach.holes) == 1


def test_the_command_seals_what_it_has_when_it_is_told_to_end(place: Site, tmp_path: Path) -> None:
    config, dsn = tmp_path / "dbsec.toml", tmp_path / "dsn"
    dsn.write_text(place.cluster.admin.text())
    dsn.chmod(0o600)
    told = place.bed.settings
    config.write_text(f'[backup]\nstore = "{told.store}"\nkms = "{told.kms}"\ndsn = "file:{dsn}"\n')
    argv = [sys.executable, "-m", "dbsec", "backup", "wal", "receive", "--config", config, "--every", "1h"]
    with subprocess.Popen(argv, env={**os.environ, **place.bed.environ}, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert "receiving timeline 1" in child.stderr.readline()
        last = mark(place, 600)

        def streamed() -> bool:
            query = "SELECT sent_lsn >= %s FROM pg_stat_replication WHERE application_name = 'dbsec_receiver'"
            with connect(place.cluster.admin) as session:
                return session.execute(query, (str(last),)).fetchone() == (True,)

        try:
            wait_until(streamed, within_s=10, what="the receiver to stream")
        finally:
            child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
    (reach, *_) = frontier.reaches(place.bed.again(), timeline=1)
    assert reach.end >= last
