"""The attacks on an archive: each succeeds on a plain one, or it would prove nothing of ours."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.backup_bed import Bed, make_kek
from tests.restore_bed import site

from dbsec import process
from dbsec.backup import Repository, archive_attacks
from dbsec.backup.archive_attacks import DATABASE, ArchiveTarget, drills, mark
from dbsec.backup.archives import PlainArchive
from dbsec.backup.keys import CONTENT, BackupKeys
from dbsec.backup.sealed_archive import SealedArchive
from dbsec.evidence import Outcome
from dbsec.kms import open_kms
from dbsec.lab import ports
from dbsec.pg import connect
from dbsec.pg.conninfo import Conninfo
from dbsec.pg.instance import Instance
from dbsec.store import ObjectStore
from dbsec.testing.clusters import Cluster


@pytest.fixture(scope="module")
def place(server_root: Path, cluster_factory: Callable[..., Cluster]) -> Iterator[tuple[Cluster, Path]]:
    made = cluster_factory(archive_mode="on", archive_command="/bin/false")
    folder = server_root / f"archive-{made.instance.port}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    shutil.chown(folder, made.account.uid, made.account.gid)
    yield made, folder
    made.instance.stop()
    shutil.rmtree(folder)


def _clone(cluster: Cluster) -> Callable[[Path], Instance]:
    def instance(data: Path) -> Instance:
        (port,) = ports.free(1)
        return Instance(cluster.instance.binaries, data, port, data.parent / "clone.log", cluster.account)

    return instance


def _login(cluster: Cluster) -> Callable[[Instance], Conninfo]:
    return lambda instance: cluster.admin.but(port=instance.port)


@pytest.fixture(scope="module")
def plain(place: tuple[Cluster, Path]) -> ArchiveTarget:
    cluster, folder = place
    run = [cluster.instance.binaries.program("pg_basebackup"), "--dbname", cluster.admin.but(dbname=None).text()]
    run += ["--pgdata", folder / "base", "--wal-method", "none", "--checkpoint", "fast", "--no-sync"]
    process.run(["mkdir", folder / "wal"], cwd=folder, account=cluster.account)
    cluster.instance.configure({"archive_command": f"cp %p {folder}/wal/%f"})
    cluster.instance.reload()
    process.run(run, cwd=folder, account=cluster.account, env=cluster.instance.binaries.env)
    archive = PlainArchive(folder / "base", folder / "wal", _clone(cluster))
    target = ArchiveTarget(
        archive=lambda: archive,
        admin=lambda: cluster.admin,
        clone=_login(cluster),
        folder=folder,
        secret=lambda: _one_row(cluster),
    )
    mark(target, archive)
    return target


def _one_row(cluster: Cluster) -> bytes:
    with connect(cluster.admin.but(dbname=DATABASE)) as session:
        row = session.execute("SELECT filler FROM marks WHERE batch = 2 AND n = 77").fetchone()
    assert row is not None
    return str(row[0]).encode()


@pytest.fixture(scope="module")
def sealed(cluster_factory: Callable[..., Cluster], server_root: Path) -> Iterator[ArchiveTarget]:
    with site(cluster_factory, server_root, "sealed") as made:
        cluster = made.cluster
        stranger = make_kek(made.bed.folder / "stranger.json", made.bed.environ)
        archive = SealedArchive(
            repository=made.bed.repository,
            reopen=lambda store: _reopened(made.bed, store, made.bed.settings.kms),
            by_stranger=lambda store: _reopened(made.bed, store, stranger),
            instance=_clone(cluster),
            owner=made.owner,
        )
        target = ArchiveTarget(
            archive=lambda: archive,
            admin=lambda: cluster.admin,
            clone=_login(cluster),
            folder=made.folder,
            secret=lambda: _one_row(cluster),
        )
        made.take()
        mark(target, archive)
        yield target


def _reopened(bed: Bed, store: ObjectStore, kms: str) -> Repository:
    """Open a copy as another host does, by the KMS alone."""
    keys = BackupKeys(store, bed.repository.system, kms=open_kms(kms, environ=bed.environ))
    return Repository(store, bed.repository.system, keys, keys.opened(CONTENT), patience_s=2)


@pytest.mark.parametrize("number", range(6))
def test_a_sealed_archive_holds_against_each_drill(sealed: ArchiveTarget, number: int) -> None:
    drill = drills(sealed)[number]
    seen = drill.attack()
    print(seen.summary)
    assert seen.outcome is Outcome.PASS, (drill.name, seen)


def test_a_sealed_archive_that_nobody_touched_has_every_row(sealed: ArchiveTarget) -> None:
    seen = archive_attacks._attacked(sealed, _nothing)
    assert seen.outcome is Outcome.ERROR
    assert seen.facts["rows_restored"] == 6000


def _nothing(copy: object, segments: list[str]) -> str:
    return "left alone"


@pytest.mark.parametrize("number", range(6))
def test_a_plain_archive_fails_each_drill(plain: ArchiveTarget, number: int) -> None:
    drill = drills(plain)[number]
    seen = drill.attack()
    assert seen.outcome is Outcome.FAIL, (drill.name, seen)
    if "damage" in seen.facts:
        assert seen.facts["rows_restored"] == 2000


def test_a_plain_archive_that_nobody_touched_has_every_row(plain: ArchiveTarget) -> None:
    seen = archive_attacks._attacked(plain, _nothing)
    assert seen.outcome is Outcome.ERROR
    assert seen.facts["rows_restored"] == 6000
