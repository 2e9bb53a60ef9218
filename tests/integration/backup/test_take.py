"""Base backups through the replication protocol: whole by PostgreSQL's own judgement, or none at all."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
from tests import taken
from tests.backup_bed import Bed, bed_of

from dbsec import process
from dbsec.backup import IncompleteBackup, WrongCluster, catalog
from dbsec.backup.base import awaiting, members, protocol
from dbsec.backup.base.options import TakeOptions
from dbsec.backup.base.overview import State, entries
from dbsec.backup.base.taking import take
from dbsec.backup.catalog import Layout
from dbsec.backup.errors import DamagedPages
from dbsec.backup.wal import pieces
from dbsec.backup.wal.names import Segment
from dbsec.clock import SYSTEM
from dbsec.errors import ConnectError, UsageError
from dbsec.pg import connect
from dbsec.progress import Silent
from dbsec.retry import wait_until
from dbsec.testing.clusters import Cluster

WHOLE = TakeOptions(label="nightly")


@pytest.fixture(scope="module")
def server(cluster_factory: Callable[..., Cluster]) -> Cluster:
    made: Cluster = cluster_factory(autovacuum="off")
    space = made.instance.data.parent / "space"
    space.mkdir()
    if not made.account.is_current:
        os.chown(space, made.account.uid, made.account.gid)
    with connect(made.admin) as session:
        session.execute(f"CREATE TABLESPACE far LOCATION '{space}'")  # type: ignore[arg-type]
        session.execute("CREATE TABLE near AS SELECT i, md5(i::text) FROM generate_series(1, 40000) i")
        session.execute("CREATE TABLE away TABLESPACE far AS SELECT i FROM generate_series(1, 2000) i")
    return made


@pytest.fixture
def bed(server: Cluster, tmp_path: Path) -> Bed:
    return bed_of(server, tmp_path)


def states(bed: Bed) -> list[State]:
    return [entry.state for entry in entries(bed.again())]


def summarize(server: Cluster, switch: Literal["on", "off"]) -> None:
    def holds() -> bool:
        with connect(server.admin) as session:
            return session.execute("SHOW summarize_wal").fetchone() == (switch,)

    with connect(server.admin) as session:
        session.execute(f"ALTER SYSTEM SET summarize_wal = {switch}")
        session.execute("SELECT pg_reload_conf()")
    wait_until(holds, within_s=10, what=f"summarize_wal = {switch}")


@pytest.mark.pg(15, 17, 18)
@pytest.mark.parametrize("compress", ["auto", "client"])
def test_a_backup_is_whole_by_postgresqls_own_judgement(server: Cluster, bed: Bed, compress, tmp_path: Path) -> None:
    options = TakeOptions(label="nightly", compress=compress)
    backup = take(bed.repository, server.admin, options, progress=Silent())
    assert backup == catalog.backups(bed.again())[0]
    assert backup.layout is (Layout.SLICES if compress == "client" else Layout.TAR)
    assert (backup.source, backup.label, backup.page_checksums, backup.parent) == ("primary", "nightly", True, "")
    assert backup.server_version == server.instance.binaries.version
    assert backup.start < backup.stop
    assert [space.oid for space in backup.tablespaces] == [a.oid for a in backup.archives if a.oid]
    assert len(backup.tablespaces) == 1
    tars = {archive.oid: taken.tar_of(bed.again(), archive) for archive in backup.archives}
    assert {archive.oid: archive.plain_bytes for archive in backup.archives} == {o: len(t) for o, t in tars.items()}
    assert backup.plain_bytes == sum(map(len, tars.values()))
    stored = sum((bed.store_folder / name).stat().st_size for name in list(backup.objects())[:-1])
    assert backup.stored_bytes == stored < backup.plain_bytes / 3
    data = taken.unpack(bed.again(), backup, tmp_path / "restored")
    assert "successfully verified" in taken.check_files(server, data)
    assert b"LABEL: nightly" in (data / "backup_label").read_bytes()
    assert not (data / "standby.signal").exists()


def test_the_list_of_slices_says_where_each_file_begins(server: Cluster, bed: Bed) -> None:
    backup = take(bed.repository, server.admin, TakeOptions(compress="client"), progress=Silent())
    for archive in backup.archives:
        told = [m for name in archive.members for m in members.parse_page(name, bed.repository.get(name))]
        with tarfile.open(fileobj=io.BytesIO(taken.tar_of(bed.repository, archive))) as tar:
            found = [(i.name, i.size, i.mode, i.linkname, i.offset_data) for i in tar.getmembers()]
        assert [(m.path, m.size, m.mode, m.link, m.tar_offset) for m in told] == found


@pytest.mark.pg(17, 18)
def test_an_incremental_backup_is_combined_with_its_parent(cluster_factory, tmp_path: Path) -> None:
    server = cluster_factory(autovacuum="off", summarize_wal="on", wal_level="replica")
    bed = bed_of(server, tmp_path)
    with connect(server.admin) as session:
        session.execute("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 40000) i")
    full = take(bed.repository, server.admin, WHOLE, progress=Silent())
    with connect(server.admin) as session:
        session.execute("UPDATE t SET i = -i WHERE i = 7")
    changed = TakeOptions(incremental=True)
    one = take(bed.repository, server.admin, changed, progress=Silent())
    two = take(bed.again(), server.admin, TakeOptions(incremental=True, compress="client"), progress=Silent())
    side = take(bed.again(), server.admin, TakeOptions(incremental=True, parent=full.id), progress=Silent())
    assert (one.parent, two.parent, side.parent) == (full.id, one.id, full.id)
    assert one.plain_bytes < full.plain_bytes / 2
    assert [backup.id for backup in catalog.chain(bed.repository, two)] == [full.id, one.id, two.id]
    folders = [taken.unpack(bed.repository, backup, tmp_path / backup.id) for backup in (full, one, two)]
    binaries = server.instance.binaries
    argv = [binaries.program("pg_combinebackup"), "--no-sync", *folders, "--output", tmp_path / "whole"]
    process.run(argv, cwd=tmp_path, env=binaries.env)
    assert "successfully verified" in taken.check_files(server, tmp_path / "whole")
    summarize(server, "off")
    with pytest.raises(UsageError, match="does not summarize") as caught:
        take(bed.repository, server.admin, changed, progress=Silent())
    assert "summarize_wal = on" in caught.value.hint


def test_what_no_summary_covers_is_refused_with_what_to_do(server: Cluster, bed: Bed) -> None:
    with pytest.raises(UsageError, match="no backup yet"):
        take(bed.repository, server.admin, TakeOptions(incremental=True), progress=Silent())
    take(bed.repository, server.admin, WHOLE, progress=Silent())
    with connect(server.admin) as session:
        session.execute("SELECT pg_switch_wal()")
        session.execute("CHECKPOINT")
    summarize(server, "on")
    try:
        with pytest.raises(ConnectError, match=r"WAL summaries.*is not finished") as caught:
            take(bed.repository, server.admin, TakeOptions(incremental=True), progress=Silent())
    finally:
        summarize(server, "off")
    assert caught.value.sqlstate == "55000"
    assert "dbsec backup take (a full one)" in caught.value.hint
    assert states(bed) == [State.FINISHED]


@pytest.mark.pg(15)
def test_before_17_there_are_no_incremental_backups(server: Cluster, bed: Bed) -> None:
    take(bed.repository, server.admin, WHOLE, progress=Silent())
    with pytest.raises(UsageError, match="PostgreSQL 15 takes no incremental"):
        take(bed.repository, server.admin, TakeOptions(incremental=True), progress=Silent())


def test_what_the_server_cannot_pack_is_packed_here(server: Cluster, bed: Bed, monkeypatch) -> None:
    monkeypatch.setattr(protocol, "LEVEL", 99)  # the server refuses it, as one without zstd refuses the word
    assert take(bed.repository, server.admin, WHOLE, progress=Silent()).layout is Layout.SLICES
    with pytest.raises(ConnectError, match="compression"):
        take(bed.repository, server.admin, TakeOptions(compress="server"), progress=Silent())
    assert states(bed) == [State.FINISHED]


def test_two_takers_at_once_both_make_a_whole_one(server: Cluster, bed: Bed, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as both:
        made = [both.submit(take, bed.again(), server.admin, WHOLE, progress=Silent()) for _ in range(2)]
    backups = [one.result() for one in made]
    assert {backup.id for backup in backups} == set(catalog.ids(bed.repository))
    for backup in backups:
        taken.check_files(server, taken.unpack(bed.repository, backup, tmp_path / backup.id))


def test_the_rate_is_held_and_progress_is_in_plain_bytes(server: Cluster, bed: Bed) -> None:
    class Told(Silent):
        def count(self, text: str, done: int, total: int) -> None:
            counts.append((done, total))

    counts: list[tuple[int, int]] = []
    start = SYSTEM.monotonic()
    options = TakeOptions(compress="client", rate_bytes_s=24 << 20)
    backup = take(bed.repository, server.admin, options, progress=Told())
    assert SYSTEM.monotonic() - start >= 0.7 * backup.plain_bytes / (24 << 20)
    assert counts == sorted(counts)
    assert counts[-1][0] == backup.plain_bytes >> 20
    assert counts[0][1] == pytest.approx(backup.plain_bytes >> 20, rel=0.1)


def test_the_wal_it_needs_is_told_as_missing_until_it_is_there(server: Cluster, bed: Bed) -> None:
    backup = take(bed.repository, server.admin, WHOLE, progress=Silent())
    segment = Segment.at(backup.timeline, backup.stop, backup.segment_bytes)
    assert awaiting.wal_missing(bed.repository, backup)[-1] == segment.name
    assert not awaiting.await_wal(bed.repository, backup, within_s=0.1, progress=Silent())
    pieces.put_piece(bed.repository, segment, 0, bytes(backup.stop - segment.start - 1))
    assert awaiting.wal_missing(bed.repository, backup) == [segment.name]
    pieces.put_piece(bed.repository, segment, 0, bytes(backup.stop - segment.start))
    assert awaiting.wal_missing(bed.repository, backup) == []
    taken.archive_wal(server, bed.repository)
    assert awaiting.await_wal(bed.repository, backup, within_s=0, progress=Silent())


def test_a_server_of_another_cluster_is_refused(server: Cluster, bed: Bed, tmp_path: Path) -> None:
    from tests.backup_bed import make_bed

    (tmp_path / "other").mkdir()
    with pytest.raises(WrongCluster):
        take(make_bed(tmp_path / "other").repository, server.admin, WHOLE, progress=Silent())


def test_a_login_that_may_not_replicate_is_told_what_it_needs(server: Cluster, bed: Bed) -> None:
    from dbsec.secret import Secret

    with connect(server.admin) as session:
        session.execute("CREATE ROLE plain LOGIN PASSWORD 'not-for-logs'")
    with pytest.raises(ConnectError, match="cannot replicate as 'plain'") as caught:
        take(bed.repository, server.admin.but(user="plain", password=Secret("not-for-logs")), WHOLE, progress=Silent())
    assert "REPLICATION" in caught.value.hint
    assert "not-for-logs" not in f"{caught.value} {caught.value!r}"


@pytest.fixture
def damaged(cluster_factory: Callable[..., Cluster]) -> Iterator[Cluster]:
    server = cluster_factory(autovacuum="off")
    with connect(server.admin) as session:
        session.execute("CREATE TABLE t AS SELECT i FROM generate_series(1, 4000) i")
        session.execute("CHECKPOINT")
        row = session.execute("SELECT pg_relation_filepath('t')").fetchone()
    path = server.instance.data / str(row[0] if row else "")
    raw = bytearray(path.read_bytes())
    raw[8192 + 5000] ^= 1
    path.write_bytes(raw)
    yield server
    server.instance.stop()


def test_a_damaged_page_makes_no_backup(damaged: Cluster, tmp_path: Path) -> None:
    bed = bed_of(damaged, tmp_path)
    with pytest.raises(DamagedPages, match=r"checksum verification failure.*block 1"):
        take(bed.repository, damaged.admin, WHOLE, progress=Silent())
    assert states(bed) == [State.UNFINISHED]
    assert catalog.backups(bed.repository) == []
    with pytest.raises(IncompleteBackup):
        catalog.get_backup(bed.repository, entries(bed.repository)[0].id)
