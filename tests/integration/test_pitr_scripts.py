"""db/pitr on a real server: archive, back up, restore to a moment; and what must never look like success."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dbsec import process
from dbsec.errors import ProgramError
from dbsec.lab import ports
from dbsec.pg import Conninfo, connect
from dbsec.retry import wait_until
from dbsec.testing.clusters import Cluster

PITR = Path(__file__).resolve().parents[2] / "db" / "pitr"
SEGMENT = "00000001000000000000000"


def _run(script: str, *argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", PITR / script, *argv], capture_output=True, text=True, check=False)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# --- wal_archiving.sh --------------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "archive").mkdir()
    (tmp_path / "segment").write_bytes(os.urandom(1 << 20))
    return tmp_path / "archive"


@pytest.mark.parametrize(
    "name", [SEGMENT + "1", SEGMENT + "1.partial", "00000002.history", SEGMENT + "1.00000028.backup"]
)
def test_a_file_is_archived_whole_and_private(archive: Path, name: str) -> None:
    source = archive.parent / "segment"
    done = _run("wal_archiving.sh", source, name, archive)
    assert (done.returncode, done.stderr) == (0, "")
    assert (archive / name).read_bytes() == source.read_bytes()
    assert (archive / name).stat().st_mode & 0o777 == 0o600
    assert (archive / name).stat().st_nlink == 1
    assert _names(archive) == [name]


def test_the_same_again_is_no_error_and_another_is(archive: Path) -> None:
    source = archive.parent / "segment"
    for _ in range(2):
        assert _run("wal_archiving.sh", source, SEGMENT + "1", archive).returncode == 0
    before = (archive / (SEGMENT + "1")).read_bytes()
    source.write_bytes(b"another server's")
    done = _run("wal_archiving.sh", source, SEGMENT + "1", archive)
    assert done.returncode == 1
    assert "with other content" in done.stderr
    assert (archive / (SEGMENT + "1")).read_bytes() == before
    assert len(_names(archive)) == 1


@pytest.mark.parametrize(
    "name", ["../escape", "000000010000000000000001x", "", "00000001.backup", "a" * 24, f"{SEGMENT}1\nx"]
)
def test_a_name_that_is_no_wal_file_is_refused(archive: Path, name: str) -> None:
    done = _run("wal_archiving.sh", archive.parent / "segment", name, archive)
    assert done.returncode == 1
    assert "not the name of a WAL file" in done.stderr
    assert _names(archive) == []


def test_a_folder_that_is_not_there_is_not_made(archive: Path) -> None:
    done = _run("wal_archiving.sh", archive.parent / "segment", SEGMENT + "1", archive / "unmounted")
    assert (done.returncode, "is not there" in done.stderr) == (1, True)
    assert _names(archive) == []


def test_a_source_that_cannot_be_read_leaves_nothing(archive: Path) -> None:
    assert _run("wal_archiving.sh", archive.parent / "gone", SEGMENT + "1", archive).returncode == 1
    assert _names(archive) == []


def test_of_two_at_once_one_wins_whole(archive: Path) -> None:
    sources = [archive.parent / name for name in ("one", "two")]
    for source in sources:
        source.write_bytes(source.name.encode() * 100_000)
    with ThreadPoolExecutor(2) as pool:
        for number in range(10):
            name = f"{SEGMENT}{number}"
            ends = list(pool.map(lambda s, n=name: _run("wal_archiving.sh", s, n, archive).returncode, sources))
            assert sorted(ends) == [0, 1]
            assert (archive / name).read_bytes() == sources[ends.index(0)].read_bytes()
    assert len(_names(archive)) == 10


# --- restore.sh fetch --------------------------------------------------------------------------------------------


def test_fetch_copies_what_is_there(archive: Path, tmp_path: Path) -> None:
    (archive / (SEGMENT + "1")).write_bytes(b"wal")
    assert _run("restore.sh", "fetch", archive, SEGMENT + "1", tmp_path / "RECOVERYXLOG").returncode == 0
    assert (tmp_path / "RECOVERYXLOG").read_bytes() == b"wal"


@pytest.mark.parametrize("name", [SEGMENT + "2", "00000002.history", "000000020000000000000001"])
def test_only_the_end_of_the_archive_is_1(archive: Path, tmp_path: Path, name: str) -> None:
    (archive / (SEGMENT + "1")).write_bytes(b"wal")
    assert _run("restore.sh", "fetch", archive, name, tmp_path / "x").returncode == 1


def test_every_other_failure_stops_the_server(archive: Path, tmp_path: Path) -> None:
    """The server promotes a short database after any code up to 125, and stops after 255."""
    (archive / (SEGMENT + "3")).write_bytes(b"wal")
    cases: dict[str, tuple[str | Path, ...]] = {
        "a hole": (archive, SEGMENT + "2", tmp_path / "x"),
        "no archive": (archive / "unmounted", SEGMENT + "3", tmp_path / "x"),
        "no room": (archive, SEGMENT + "3", tmp_path / "no" / "folder"),
        "too few words": (archive, SEGMENT + "3"),
    }
    codes = {case: _run("restore.sh", "fetch", *argv).returncode for case, argv in cases.items()}
    assert codes == dict.fromkeys(cases, 255)


def test_a_program_that_is_missing_is_not_the_end_either(archive: Path, tmp_path: Path) -> None:
    argv: list[str | Path] = ["/bin/sh", PITR / "restore.sh", "fetch", archive, SEGMENT + "2", tmp_path / "x"]
    assert subprocess.run(argv, env={"PATH": str(tmp_path)}, capture_output=True, check=False).returncode == 255


# --- a real restore ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    cluster: Cluster
    folder: Path
    target_time: str

    def sh(self, script: str, *argv: str | Path) -> str:
        """Run a script as the account of the server, with its programs in PATH."""
        found = self.cluster.instance.binaries
        env = {**found.env, "PATH": f"{found.folder}:/usr/bin:/bin"}
        return process.run([self.folder / script, *argv], cwd=self.folder, account=self.cluster.account, env=env)

    def restore(self, name: str, *, backup: str = "backup", archive: str = "archive", time: str = "") -> Path:
        argv = (self.folder / backup, self.folder / archive, self.folder / name, *([time] if time else ()))
        self.sh("restore.sh", *argv)
        return self.folder / name


def _own(folder: Path, cluster: Cluster) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, cluster.account.uid, cluster.account.gid)


def _wait_for(conninfo: Conninfo, query: str, what: str) -> None:
    with connect(conninfo) as session:
        wait_until(lambda: session.execute(query.encode()).fetchone() == (True,), within_s=20, what=what)


@pytest.fixture(scope="module")
def site(cluster_factory: Callable[..., Cluster], server_root: Path) -> Iterator[Site]:
    """A server with three rows: one in the backup, one before the moment, one after; and the sketch's bad backup."""
    folder = server_root / f"pitr-{os.getpid()}"
    (folder / "archive").mkdir(mode=0o755, parents=True)
    for script in PITR.glob("*.sh"):
        shutil.copy(script, folder)
    command = f'{folder}/wal_archiving.sh "%p" "%f" "{folder}/archive"'
    cluster = cluster_factory(archive_mode="on", archive_command=command, wal_level="replica")
    _own(folder, cluster)
    with connect(cluster.admin) as session:
        session.execute("CREATE TABLE t (id int)")
        session.execute("INSERT INTO t VALUES (1)")
        _base_backup(cluster, folder / "backup")
        session.execute("INSERT INTO t VALUES (2)")
        time.sleep(0.05)
        (moment,) = session.execute("SELECT clock_timestamp()::text").fetchone() or ("",)
        time.sleep(0.05)
        session.execute("INSERT INTO t VALUES (3)")
        (last,) = session.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone() or ("",)
    _wait_for(cluster.admin, f"SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver", "the archiver")
    yield Site(cluster, folder, moment)
    shutil.rmtree(folder)


def _base_backup(cluster: Cluster, folder: Path) -> None:
    """Back up as the usual sketch does: with a slot, and a standby's configuration with the password."""
    admin = cluster.admin
    assert admin.password is not None
    cluster_bin = cluster.instance.binaries
    url = f"host=127.0.0.1 port={admin.port} user={admin.user}"
    argv: list[str | Path] = [
        cluster_bin.program("pg_basebackup"),
        "-d",
        url,
        "-D",
        folder,
        "-X",
        "stream",
        "-C",
        "-S",
        "leaky",
        "-R",
    ]
    env = {**cluster_bin.env, "PGPASSWORD": admin.password.reveal()}
    process.run([*argv, "-c", "fast"], cwd=folder.parent, account=cluster.account, env=env)
    with connect(admin) as session:
        session.execute("SELECT pg_drop_replication_slot('leaky')")


def _started(site: Site, folder: Path) -> tuple[Cluster, list[int]]:
    """Start a restored folder on a port of its own, wait for its promotion, and read the rows."""
    (port,) = ports.free(1)
    instance = replace(site.cluster.instance, data=folder, port=port, log=folder.parent / f"{folder.name}.log")
    instance.configure({"port": str(port)})
    instance.start()
    admin = site.cluster.admin.but(port=port)
    _wait_for(admin, "SELECT NOT pg_is_in_recovery()", "the promotion")
    with connect(admin) as session:
        rows = [row[0] for row in session.execute("SELECT id FROM t ORDER BY id")]
    return replace(site.cluster, instance=instance, admin=admin), rows


def test_rows_before_the_moment_are_there_and_rows_after_are_not(site: Site) -> None:
    folder = site.restore("to-the-moment", time=site.target_time)
    copy, rows = _started(site, folder)
    try:
        assert rows == [1, 2]
        with connect(copy.admin) as session:
            assert session.execute("SHOW archive_mode").fetchone() == ("off",)
            assert session.execute("SELECT count(*) FROM pg_stat_wal_receiver").fetchone() == (0,)
            assert session.execute("SELECT count(*) FROM pg_replication_slots").fetchone() == (0,)
    finally:
        copy.instance.destroy()


def test_without_a_moment_all_of_the_archive_comes_back(site: Site) -> None:
    copy, rows = _started(site, site.restore("to-the-end"))
    copy.instance.destroy()
    assert rows == [1, 2, 3]


def test_no_password_and_no_slot_is_left(site: Site) -> None:
    """The bad backup has both: its copy must have neither."""
    assert site.cluster.admin.password is not None
    secret = site.cluster.admin.password.reveal()
    assert secret in (site.folder / "backup" / "postgresql.auto.conf").read_text(), "the sketch no longer leaks"
    folder = site.restore("clean")
    texts = {p: p.read_bytes() for p in folder.rglob("*.conf")}
    assert [p for p, text in texts.items() if secret.encode() in text or b"leaky" in text] == []
    assert not (folder / "standby.signal").exists()
    assert list((folder / "pg_replslot").iterdir()) == []
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_hole_in_the_archive_never_opens_a_short_database(site: Site) -> None:
    shutil.copytree(site.folder / "archive", site.folder / "holed")
    segments = sorted(p for p in (site.folder / "holed").iterdir() if len(p.name) == 24)
    after = [p for p in segments if p.read_bytes() and p.name > _first_needed(site)]
    after[0].unlink()
    (site.folder / "holed" / f"{after[0].name[:16]}{'F' * 8}").write_bytes(b"")
    _own(site.folder / "holed", site.cluster)
    folder = site.restore("holed-copy", archive="holed")
    with pytest.raises(ProgramError, match="the archive has a hole"):
        _started(site, folder)


def _first_needed(site: Site) -> str:
    label = (site.folder / "backup" / "backup_label").read_text()
    return label.split("file ")[1][:24]


def test_a_damaged_backup_is_refused(site: Site) -> None:
    shutil.copytree(site.folder / "backup", site.folder / "damaged")
    (site.folder / "damaged" / "global" / "pg_control").write_bytes(b"x" * 8192)
    _own(site.folder / "damaged", site.cluster)
    with pytest.raises(ProgramError, match="is damaged"):
        site.restore("never", backup="damaged")
    assert not (site.folder / "never").exists()


def test_what_would_go_wrong_later_is_refused_now(site: Site) -> None:
    full = site.restore("full")
    shutil.copytree(site.folder / "backup", site.folder / "no-label")
    (site.folder / "no-label" / "backup_label").unlink()
    _own(site.folder / "no-label", site.cluster)
    cases: dict[str, tuple[str | Path, ...]] = {
        "is not empty": ("backup", "archive", full),
        "not a base backup": ("archive", "archive", "new"),
        "no backup_label": ("no-label", "archive", "new"),
        "is not there": ("backup", "nowhere", "new"),
        "cannot stand in a path": ("backup", "archive", "new", "2026-11-23 10:00:00+00'; x"),
    }
    for said, argv in cases.items():
        with pytest.raises(ProgramError, match=said):
            site.sh("restore.sh", *argv)
    assert not (site.folder / "new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try as root")
def test_root_is_sent_away(site: Site) -> None:
    done = _run("restore.sh", site.folder / "backup", site.folder / "archive", site.folder / "new")
    assert (done.returncode, "not as root" in done.stderr) == (255, True)
