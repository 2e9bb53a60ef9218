"""Restores to each kind of target, of each layout, tablespaces and chains; nothing starts before it is whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.restore_bed import Site, site

from dbsec import process
from dbsec.backup import Backup
from dbsec.backup.catalog import Layout
from dbsec.backup.restoring import parse_target
from dbsec.backup.restoring.passwords import scramble_passwords
from dbsec.backup.restoring.programs import NotVerified
from dbsec.clock import SYSTEM, rfc3339
from dbsec.errors import ConnectError, ProgramError, ProgramMissing, UsageError
from dbsec.pg import connect
from dbsec.retry import wait_until
from dbsec.testing.clusters import Cluster


@dataclass(frozen=True)
class Past:
    """A server's day: rows 1 (in all backups), 2 (before the moment), 3 (after it), and where each was."""

    site: Site
    packed: Backup
    sliced: Backup
    ranged: Backup
    moment: str
    lsn: str
    xid: str

    def rows(self, target: dict, *, backup: str = "", exclusive: bool = False, **told) -> list[int]:
        site = self.site
        wanted = site.plan(parse_target(target, exclusive=exclusive), backup=backup)
        done = site.restore(wanted, remap=self.remap(), **told)
        with site.copy(done) as copy, connect(copy.admin) as session:
            near = [row[0] for row in session.execute("SELECT id FROM near ORDER BY id")]
            assert near == [row[0] for row in session.execute("SELECT id FROM far ORDER BY id")]
            assert session.execute("SHOW archive_mode").fetchone() == ("off",)
            return near

    def remap(self) -> dict[str, str]:
        number = len(self.site.copies)
        return {self.packed.tablespaces[0].path: str(self.site.folder / f"space-{number}")}


@pytest.fixture(scope="module")
def past(cluster_factory: Callable[..., Cluster], server_root: Path) -> Iterator[Past]:
    with site(cluster_factory, server_root, "restore", autovacuum="off") as made:
        space = made.folder / "space"
        space.mkdir()
        if made.owner:
            os.chown(space, *made.owner)
        made.sql(
            f"CREATE TABLESPACE elsewhere LOCATION '{space}'",  # type: ignore[arg-type]
            "CREATE TABLE near (id int)",
            "CREATE TABLE far (id int) TABLESPACE elsewhere",
            _insert(1),
        )
        packed, sliced = made.take(compress="server"), made.take(compress="client")
        ranged = made.take(engine="ranges")
        made.sql(_insert(2))
        ((xid,),) = made.sql("SELECT xmin::text FROM near WHERE id = 2")
        ((lsn,),) = made.sql("SELECT pg_current_wal_insert_lsn()::text")
        made.sql("SELECT pg_create_restore_point('before the accident')")
        moment = rfc3339(SYSTEM.now())
        time.sleep(0.01)
        made.sql(_insert(3))
        made.archived()
        yield Past(made, packed, sliced, ranged, moment, lsn, xid)


def _insert(number: int):
    return f"WITH n AS (INSERT INTO near VALUES ({number}) RETURNING id) INSERT INTO far SELECT id FROM n"


@pytest.mark.pg(15, 17, 18)
def test_a_time_is_compared_with_that_of_commits(past: Past) -> None:
    assert past.rows({"time": past.moment}) == [1, 2]


@pytest.mark.parametrize("layout", ["tar", "slices", "ranges"])
def test_to_the_end(past: Past, layout: str) -> None:
    backup = {"tar": past.packed, "slices": past.sliced, "ranges": past.ranged}[layout]
    assert backup.layout is Layout(layout)
    assert past.rows({"latest": True}, backup=backup.id) == [1, 2, 3]


def test_other_targets(past: Past) -> None:
    assert past.rows({"xid": past.xid}) == [1, 2]
    assert past.rows({"xid": past.xid}, exclusive=True) == [1]
    assert past.rows({"lsn": past.lsn}) == [1, 2]
    assert past.rows({"immediate": True}) == [1]


def test_a_server_that_pauses_is_read_and_not_opened(past: Past) -> None:
    site = past.site
    wanted = site.plan(parse_target({"name": "before the accident"}, action="pause"))
    done = site.restore(wanted, remap=past.remap())
    with site.copy(done, promoted=False) as copy, connect(copy.admin) as session:
        wait_until(
            lambda: session.execute("SELECT pg_get_wal_replay_pause_state() = 'paused'").fetchone() == (True,),
            within_s=30,
            what="the pause",
        )
        assert session.execute("SELECT count(*) FROM near").fetchone() == (2,)
        assert session.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)


def test_a_copy_is_apart_from_its_original(past: Past) -> None:
    site = past.site
    made = site.restore(site.plan(), remap=past.remap())
    with site.copy(made) as copy, connect(copy.admin) as session:
        shown = {
            name: (session.execute(f"SHOW {name}".encode()).fetchone() or ("",))[0]
            for name in ("archive_mode", "archive_command", "primary_conninfo", "listen_addresses", "cluster_name")
        }
        assert shown == {
            "archive_mode": "off",
            "archive_command": "(disabled)",
            "primary_conninfo": "",
            "listen_addresses": "localhost",
            "cluster_name": f"restored-{made.backup}",
        }
        (space,) = made.spaces
        row = session.execute("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'elsewhere'")
        assert row.fetchone() == (str(space.new),)
        assert space.old != str(space.new)
        assert scramble_passwords(session, keep=["nobody"]) == ["postgres"]
        with pytest.raises(ConnectError):
            connect(copy.admin)
    with connect(site.cluster.admin) as session, pytest.raises(UsageError, match="does not say that it is a copy"):
        scramble_passwords(session)
    assert made.unverified == ""
    owner = site.cluster.account.uid
    assert (made.folder.exists(), space.new.stat().st_uid) == (False, owner)


def test_a_tablespace_never_lands_in_that_of_the_original(past: Past) -> None:
    with pytest.raises(UsageError, match="is it the original's") as caught:
        past.site.restore(past.site.plan(), name="refused")
    assert "--tablespace-mapping" in caught.value.hint
    assert not (past.site.folder / "refused").exists()


@pytest.mark.parametrize("layout", ["tar", "ranges"])
def test_files_that_are_not_what_the_manifest_says_do_not_start(
    past: Past, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects are proven before, so only a disk or ourselves could change a file: here ourselves.

    The manifest of ranges has sizes and no checksums: there a byte too many is found, and a bent one is not.
    """
    from dbsec.backup.restoring import folder

    honest = folder._Open.write

    def bends(self: folder._Open, offset: int, data: memoryview) -> None:
        if len(data) == 8192 and not offset:
            whole = bytes(data)
            data = memoryview(whole[:-1] + bytes([whole[-1] ^ 1]) if layout == "tar" else whole + b"x")
        honest(self, offset, data)

    monkeypatch.setattr(folder._Open, "write", bends)
    backup = past.packed if layout == "tar" else past.ranged
    with pytest.raises(NotVerified, match="is not what its manifest says"):
        past.site.restore(past.site.plan(backup=backup.id), name=f"bent-{layout}", remap=past.remap())
    assert not (past.site.folder / f"bent-{layout}" / "PG_VERSION").exists()


CHILD = """
import os, signal, sys
from datetime import timedelta
from pathlib import Path
from dbsec.backup import BackupSettings, open_repository
from dbsec.backup.restoring import Target, plan, restore
from dbsec.backup.restoring import publishing
from dbsec.pg.binaries import in_folder

store, kms, folder, bindir, old, new, at = sys.argv[1:]

class Dies:
    calls = 0
    def step(self, text):
        Dies.calls += 1
        if Dies.calls == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
    def count(self, text, done, total):
        self.step(text)

rename = Path.rename
def dying(self, target):
    Dies().step("rename")
    return rename(self, target)
Path.rename = dying

repository = open_repository(BackupSettings(store=store, kms=kms), environ=os.environ)
restore(repository, plan(repository, Target()), Path(folder), restore_command="false", progress=Dies(),
        binaries=in_folder(Path(bindir)), remap={old: new}, again=False)
"""


def test_a_restorer_that_is_killed_leaves_nothing_that_starts(past: Past) -> None:
    site = past.site
    binaries = site.cluster.instance.binaries
    settings = site.bed.settings
    spaces = past.packed.tablespaces[0].path
    for at in (1, 3, 20, 30):  # while it fills, verifies, and moves what is whole to its place
        folder, space = site.folder / f"killed-{at}", site.folder / f"killed-space-{at}"
        argv = [settings.store, settings.kms, folder, binaries.folder, spaces, space, at]
        child = subprocess.run(
            [sys.executable, "-c", CHILD, *map(str, argv)],
            env={**os.environ, **site.bed.environ}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert child.returncode == -signal.SIGKILL, child.stderr
        _give(folder, site)
        with pytest.raises(ProgramError, match=r"PG_VERSION|configuration file"):
            process.run(
                [binaries.program("postgres"), "-D", folder], cwd=folder, account=site.cluster.account, env=binaries.env
            )
        with pytest.raises(UsageError, match="broken off"):
            site.restore(site.plan(), name=folder.name, remap={spaces: str(space)})
    again = site.restore(site.plan(), name=folder.name, again=True, remap={spaces: str(space)})
    with site.copy(again) as copy, connect(copy.admin) as session:
        assert session.execute("SELECT count(*) FROM far").fetchone() == (3,)


def test_a_target_that_is_full_is_told_and_does_not_start(past: Past) -> None:
    """The limit on a file's size stands in for the disk: write fails in the middle of one, as it would there."""
    site, settings = past.site, past.site.bed.settings
    folder, space = site.folder / "full", site.folder / "full-space"
    argv = [settings.store, settings.kms, folder, site.cluster.instance.binaries.folder]
    argv += [past.packed.tablespaces[0].path, space, 0]
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n{CHILD}"
    child = subprocess.run(
        [sys.executable, "-c", limited, *map(str, argv)],
        env={**os.environ, **site.bed.environ}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 1
    assert "File too large" in child.stderr.splitlines()[-1]
    assert not (folder / "PG_VERSION").exists()
    site.restore(site.plan(), name=folder.name, again=True, remap={past.packed.tablespaces[0].path: str(space)})


def _give(folder: Path, site: Site) -> None:
    if site.owner is not None:
        process.run(["chown", "-R", f"{site.owner[0]}:{site.owner[1]}", folder], cwd=Path("/"))


@pytest.mark.pg(17, 18)
def test_a_chain_of_incrementals_is_one_folder(
    cluster_factory: Callable[..., Cluster], server_root: Path, tmp_path: Path
) -> None:
    with site(cluster_factory, server_root, "chain", summarize_wal="on", autovacuum="off") as made:
        space = made.folder / "space"
        space.mkdir()
        if made.owner:
            os.chown(space, *made.owner)
        made.sql(f"CREATE TABLESPACE elsewhere LOCATION '{space}'")  # type: ignore[arg-type]
        made.sql("CREATE TABLE near AS SELECT i AS id, repeat('x', 100) FROM generate_series(1, 20000) i")
        made.sql("CREATE TABLE far TABLESPACE elsewhere AS SELECT i AS id FROM generate_series(1, 1000) i")
        full = made.take()
        made.sql("UPDATE near SET id = id + 1000000 WHERE id % 1000 = 0", "INSERT INTO far VALUES (-1)")
        middle = made.take(incremental=True, parent=full.id)
        made.sql("DELETE FROM near WHERE id = 1", "INSERT INTO far VALUES (-2)")
        last = made.take(incremental=True, parent=middle.id, compress="client")
        made.sql("INSERT INTO far VALUES (-3)")
        made.archived()
        wanted = made.plan()
        assert [one.id for one in wanted.chain] == [full.id, middle.id, last.id]
        remap = {str(space): str(made.folder / "space-of-copy")}
        with pytest.raises(ProgramMissing, match="pg_combinebackup"):
            made.restore(wanted, name="refused", binaries=None, remap=remap)
        done = made.restore(wanted, remap=remap)
        assert done.unverified == ""
        with made.copy(done) as copy, connect(copy.admin) as session:
            query = "SELECT count(*), sum(id::int8) FROM "
            for table in ("near", "far"):
                with connect(made.cluster.admin) as original:
                    want = original.execute((query + table).encode()).fetchone()
                assert session.execute((query + table).encode()).fetchone() == want
            assert not list(done.folder.glob("dbsec-restore*"))
