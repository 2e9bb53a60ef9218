"""WAL of a real server through archiver, client and store: nothing acknowledged is lost, no restore ends short."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from tests.backup_bed import Bed, bed_of, make_kek

from dbsec import process
from dbsec.backup import Repository, WrongCluster
from dbsec.backup.keys import CONTENT
from dbsec.backup.wal import commands
from dbsec.backup.wal.fetch import read
from dbsec.backup.wal.names import object_name
from dbsec.backup.wal.push import push_file
from dbsec.backup.wal.serving import serve
from dbsec.errors import ConnectError, ProgramError
from dbsec.kms import KmsUnavailable
from dbsec.lab import ports
from dbsec.pg import connect
from dbsec.process import ProcessId
from dbsec.retry import wait_until
from dbsec.store import ObjectMissing
from dbsec.testing.clusters import Cluster

BATCH: LiteralString = "INSERT INTO t SELECT clock_timestamp(), repeat('x', 100) FROM generate_series(1, 1000)"
# an archiver that ends itself at one moment of one segment, or whose store is full or broken
CHILD = """
import json, os, resource, signal, sys, threading
from datetime import timedelta
from pathlib import Path
from dbsec.backup import BackupSettings, open_repository, sealed
from dbsec.backup.wal.serving import serve
from dbsec.store import StoreUnavailable
from dbsec.store.file import FileStore

told = json.load(sys.stdin)
put, seal = FileStore.put, sealed.seal

def die(moment, name):
    if told["moment"] == moment and name.startswith("wal/"):
        os.kill(os.getpid(), signal.SIGKILL)

def sealing(header, plain, key):
    die("received", header.name)
    return seal(header, plain, key)

def putting(self, name, data):
    die("sealed", name)
    if told["moment"] == "500":
        raise StoreUnavailable("500")
    put(self, name, data)
    die("put", name)

FileStore.put, sealed.seal = putting, sealing
if told["moment"] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
settings = BackupSettings(**told["settings"]).model_copy(update={"patience": timedelta(milliseconds=100)})
repository = open_repository(settings, environ=told["environ"])
with serve(repository, Path(told["socket"]), owner=told["owner"]):
    Path(told["ready"]).touch()
    threading.Event().wait()
"""


@dataclass
class Site:
    """A server that archives through ``push.sock``, wherever that leads; ``backup`` is what restores begin from."""

    cluster: Cluster
    bed: Bed
    folder: Path
    python: Path
    # the segment that a batch is in
    batches: list[str]

    @property
    def owner(self) -> tuple[int, int] | None:
        account = self.cluster.account
        return None if account.is_current else (account.uid, account.gid)

    @property
    def pg_wal(self) -> Path:
        return self.cluster.instance.data / "pg_wal"

    @contextmanager
    def archiver(self) -> Iterator[None]:
        with serve(self.bed.again(), self.folder / "push.sock", owner=self.owner):
            yield

    def command(self, make: Callable[..., str], socket: str) -> str:
        return make(self.folder / socket, client=self.folder / commands.CLIENT, python=self.python)

    def batch(self) -> str:
        """Add 1000 rows in a segment of their own, and return its name."""
        self.sql(BATCH)
        ((name,),) = self.sql("SELECT pg_walfile_name(pg_switch_wal())")
        self.batches.append(name)
        return str(name)

    def sql(self, statement: LiteralString) -> list[Any]:
        return _sql(self.cluster, statement)

    def archived(self, name: str) -> bool:
        return bool(self.sql("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver")[0][0] >= name)

    def wait_archived(self, name: str) -> None:
        wait_until(lambda: self.archived(name), within_s=30, what=f"the archiver to have '{name}'")

    def waits(self, name: str) -> bool:
        """Tell whether the server still keeps a segment to be archived."""
        return (self.pg_wal / name).exists() and (self.pg_wal / "archive_status" / f"{name}.ready").exists()

    @contextmanager
    def child(self, moment: str) -> Iterator[ProcessId]:
        """Run an archiver that fails at a moment, until the block ends or it has died."""
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        settings = {"store": self.bed.settings.store, "kms": self.bed.settings.kms}
        told = {"settings": settings, "environ": self.bed.environ, "owner": self.owner, "moment": moment}
        told |= {"socket": str(self.folder / "push.sock"), "ready": str(ready)}
        (self.folder / "told").touch(0o600)
        (self.folder / "told").write_text(json.dumps(told))
        argv = ["/bin/sh", "-c", 'exec "$0" -c "$1" <"$2"', sys.executable, CHILD, self.folder / "told"]
        running = process.spawn(argv, cwd=self.folder, log=self.folder / "child.log")
        try:
            wait_until(lambda: ready.exists() or not running.alive, within_s=20, what="the archiver")
            assert ready.exists(), process.last_lines(self.folder / "child.log")
            yield running
        finally:
            process.stop(running, ladder=((signal.SIGKILL, 10.0),))

    def damaged(self, name: str, damage: Callable[[Path], None]) -> Bed:
        """Copy the store and damage the copy."""
        folder = self.folder / "bed" / name
        shutil.copytree(self.bed.store_folder, folder / "store")
        damage(folder / "store")
        return Bed(
            folder,
            self.bed.settings.model_copy(update={"store": f"file://{folder}/store"}),
            self.bed.environ,
            self.bed.repository,
        )

    @contextmanager
    def copy(self, name: str, **settings: str) -> Iterator[Cluster]:
        """Make a data folder of the backup; with a restore_command it is to recover. Not started."""
        folder = self.folder / name
        shutil.copytree(self.folder / "backup", folder)
        for path in folder.glob("pg_wal/0*"):
            if settings.get("restore_command"):
                path.unlink()
        if settings.get("restore_command"):
            (folder / "recovery.signal").touch()
        if self.owner:
            process.run(["chown", "-R", f"{self.owner[0]}:{self.owner[1]}", folder], cwd=Path("/"))
        (port,) = ports.free(1)
        instance = replace(self.cluster.instance, data=folder, port=port, log=self.folder / f"{name}.log")
        instance.configure({"port": str(port), "archive_mode": "off", **settings})
        try:
            yield replace(self.cluster, instance=instance, admin=self.cluster.admin.but(port=port))
        finally:
            instance.destroy()

    @contextmanager
    def restored(
        self, name: str, repository: Repository | None, *, before: Callable[[], None] = int, **settings: str
    ) -> Iterator[Cluster]:
        """Recover a copy to the end of the archive; it is then promoted, or dead. ``before``: once WAL is served."""
        told = {"restore_command": self.command(commands.restore_command, "fetch.sock"), **settings}
        with self.copy(name, **told) as copy:
            if repository is None:
                _recover(copy)
                yield copy
                return
            with serve(repository, self.folder / "fetch.sock", verbs=("fetch",), owner=self.owner, settle_s=0):
                before()
                _recover(copy)
                yield copy


def _sql(cluster: Cluster, statement: LiteralString) -> list[Any]:
    with connect(cluster.admin) as session:
        done = session.execute(statement)
        return done.fetchall() if done.description else []


def _recover(copy: Cluster) -> None:
    try:
        copy.instance.start()
    except ProgramError:
        return

    def ended() -> bool:
        if copy.instance.running() is None:
            return True
        try:
            return _sql(copy, "SELECT pg_is_in_recovery()") == [(False,)]
        except (ConnectError, psycopg.OperationalError):  # it is just dying
            return False

    wait_until(ended, within_s=30, what="the promotion, or the end")


def _rows(cluster: Cluster) -> int:
    ((count,),) = _sql(cluster, "SELECT count(*) FROM t")
    return int(count)


def _refused(copy: Cluster) -> str:
    """Return the log of a server that has ended without a promotion."""
    assert copy.instance.running() is None
    log = copy.instance.log.read_text()
    assert "FATAL:  could not restore file" in log
    assert "archive recovery complete" not in log
    assert not list((copy.instance.data / "pg_wal").glob("00000002.history"))
    return log


@pytest.fixture(scope="module")
def site(cluster_factory: Callable[..., Cluster], server_root: Path) -> Iterator[Site]:
    """Six batches of 1000 rows after a base backup, each in a segment of its own."""
    folder = server_root / f"wal-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    (folder / "bed").mkdir(mode=0o700)
    client, cluster = commands.install_client(folder), cluster_factory(archive_mode="on", wal_level="replica")
    python = commands.find_python(cluster.account)
    told = commands.archive_command(folder / "push.sock", client=client, python=python)
    cluster.instance.configure({"archive_command": told})
    cluster.instance.reload()
    made = Site(cluster, bed_of(cluster, folder / "bed"), folder, python, [])
    if made.owner:
        os.chown(folder, *made.owner)
    with made.archiver():
        made.sql("CREATE TABLE t (at timestamptz, filler text)")
        _base_backup(made)
        for _ in range(6):
            made.batch()
        made.wait_archived(made.batches[-1])
    yield made
    with made.archiver():  # the server archives its last segment before it ends
        cluster.instance.stop()
    shutil.rmtree(folder)


def _base_backup(site: Site) -> None:
    admin, binaries = site.cluster.admin, site.cluster.instance.binaries
    assert admin.password is not None
    source = f"host=127.0.0.1 port={admin.port} user={admin.user}"
    argv = ("--dbname", source, "--pgdata", site.folder / "backup", "--wal-method=fetch", "--checkpoint=fast")
    env = {**binaries.env, "PGPASSWORD": admin.password.reveal()}
    command = [binaries.program("pg_basebackup"), *argv, "--no-sync"]
    process.run(command, cwd=site.folder, account=site.cluster.account, env=env)


# --- archiving ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["received", "sealed", "put"])
def test_an_archiver_that_is_killed_loses_nothing(site: Site, moment: str) -> None:
    with site.child(moment) as running:
        name = site.batch()
        content = (site.pg_wal / name).read_bytes()
        wait_until(lambda: not running.alive, within_s=20, what="the archiver to die")
        assert not site.archived(name)
        assert site.waits(name)
        # what was put and not acknowledged is there whole, and is acknowledged when it comes again
        if moment == "put":
            assert site.bed.again().get(object_name(name)) == content
        else:
            with pytest.raises(ObjectMissing):
                site.bed.again().get(object_name(name))
    with site.archiver():
        site.wait_archived(name)
    assert read(site.bed.again(), name) == content


@pytest.mark.parametrize("trouble", ["500", "full", "away"])
def test_a_store_in_trouble_keeps_the_segment_with_the_server(site: Site, trouble: str) -> None:
    ((failed,),) = site.sql("SELECT failed_count FROM pg_stat_archiver")
    with site.child(trouble):
        if trouble == "away":
            site.bed.store_folder.rename(site.folder / "unmounted")
        name = site.batch()

        def refused() -> bool:
            return bool(site.sql("SELECT failed_count FROM pg_stat_archiver")[0][0] > failed)

        wait_until(refused, within_s=20, what="a failure")
        assert not site.archived(name)
        assert site.waits(name)
    if trouble == "away":
        (site.folder / "unmounted").rename(site.bed.store_folder)
    with site.archiver():
        site.wait_archived(name)
    assert read(site.bed.again(), name) == (site.pg_wal / name).read_bytes()


def test_a_clone_that_archives_over_its_original_is_refused_in_its_log(site: Site) -> None:
    told = {"archive_mode": "on", "archive_command": site.command(commands.archive_command, "push.sock")}
    with site.copy("clone", **told) as clone, site.archiver():
        clone.instance.start()
        for _ in range(2):
            _sql(clone, BATCH)
            _sql(clone, "SELECT pg_switch_wal()")
        wait_until(
            lambda: "with other content" in clone.instance.log.read_text(), within_s=20, what="the refusal in the log"
        )
        ((failed,),) = _sql(clone, "SELECT last_failed_wal FROM pg_stat_archiver")
    assert failed <= site.batches[0]
    assert read(site.bed.again(), site.batches[0])


def test_another_cluster_cannot_archive_here(site: Site) -> None:
    system_file = site.pg_wal / site.batch()
    raw = bytearray(system_file.read_bytes())
    raw[24:32] = (int.from_bytes(raw[24:32], sys.byteorder) ^ 1).to_bytes(8, sys.byteorder)
    alien = site.folder / "bed" / system_file.name
    alien.write_bytes(raw)
    with pytest.raises(WrongCluster):
        push_file(site.bed.again(), alien)
    with site.archiver():
        site.wait_archived(system_file.name)


# --- restoring ---------------------------------------------------------------------------------------------------


def _flip(site: Site, store: Path) -> None:
    place = store / object_name(site.batches[3])
    raw = bytearray(place.read_bytes())
    raw[len(raw) // 2] ^= 1
    place.write_bytes(raw)


def _swap(site: Site, store: Path) -> None:
    shutil.copy(store / object_name(site.batches[2]), store / object_name(site.batches[3]))


def _cut(site: Site, store: Path) -> None:
    place = store / object_name(site.batches[3])
    os.truncate(place, place.stat().st_size // 2)


def _remove(site: Site, store: Path) -> None:
    (store / object_name(site.batches[3])).unlink()


DAMAGE = {
    "flipped": (_flip, "altered or truncated"),
    "swapped": (_swap, "it is the object"),
    "cut": (_cut, "altered or truncated"),
    "missing": (_remove, "the archive has a hole"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_no_damage_opens_a_short_database(site: Site, damage: str) -> None:
    act, said = DAMAGE[damage]
    bed = site.damaged(damage, lambda store: act(site, store))
    with site.restored(f"copy-{damage}", bed.again()) as copy:
        assert said in _refused(copy)


def test_the_end_that_is_proven_is_promoted_with_every_row(site: Site) -> None:
    with site.restored("copy-whole", site.bed.again()) as copy:
        assert _rows(copy) == len(site.batches) * 1000 == _rows(site.cluster)


class _Away:
    """A KMS that does not answer."""

    def unwrap(self, *_: Any) -> bytes:
        raise KmsUnavailable("the KMS does not answer")


def test_without_key_store_or_server_no_recovery_ends(site: Site) -> None:
    bed = site.bed
    environ = {**bed.environ, "CONTENT": bed.repository.keys.opened(CONTENT).hex()}
    wrong = make_kek(site.folder / "bed" / "wrong.json", environ)
    other = replace(bed, environ=environ).again(kms=wrong, content_key="env:CONTENT")
    with site.restored("copy-kek", other) as copy:
        assert "cannot be opened" in _refused(copy)
    away = bed.again()
    away.keys.kms = _Away()  # type: ignore[assignment]
    with site.restored("copy-kms", away) as copy:
        assert "does not answer" in _refused(copy)
    unmounted = site.damaged("unmounted", lambda _: None)
    opened = unmounted.again(patience=timedelta(milliseconds=100))
    with site.restored("copy-store", opened, before=lambda: shutil.rmtree(unmounted.store_folder)) as copy:
        assert "did not succeed within" in _refused(copy)
    with site.restored("copy-alone", None) as copy:
        assert "no archiver answers" in _refused(copy)


def test_a_promotion_is_followed_and_its_history_is_missed(site: Site) -> None:
    """After a failover: history, partial and segments of timeline 2 lie beside those of timeline 1."""
    bed = site.damaged("promoted", lambda _: None)
    told = {"archive_mode": "on", "archive_command": site.command(commands.archive_command, "push.sock")}
    with (
        serve(bed.again(), site.folder / "push.sock", owner=site.owner),
        site.restored("new-primary", bed.again(), **told) as primary,
    ):
        _sql(primary, BATCH)
        ((name,),) = _sql(primary, "SELECT pg_walfile_name(pg_switch_wal())")
        assert name.startswith("00000002")
        wait_until(
            lambda: _sql(primary, "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver")[0][0] >= name,
            within_s=30,
            what="the new primary's archive",
        )
        rows = _rows(primary)
    assert rows == _rows(site.cluster) + 1000
    with site.restored("copy-promoted", bed.again()) as copy:
        assert _rows(copy) == rows
        assert (copy.instance.data / "pg_wal/00000003.history").exists()
    (bed.store_folder / object_name("00000002.history")).unlink()
    with site.restored("copy-no-history", bed.again()) as copy:
        assert "timeline 2 has WAL" in _refused(copy)
