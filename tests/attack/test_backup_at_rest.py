"""The attacks on a disk: each succeeds where nothing was done, and none after."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import missing

from dbsec.backup.at_rest import attacks, offers, proof
from dbsec.backup.at_rest.attacks import DiskTarget, drills
from dbsec.backup.at_rest.proof import Bench
from dbsec.evidence import Outcome
from dbsec.lab import ports
from dbsec.progress import Silent
from dbsec.testing.clusters import Clusters


@pytest.fixture(scope="module")
def bench(clusters: Clusters) -> Bench:
    return Bench(clusters.binaries(), clusters._account, lambda: ports.free(1)[0])


@pytest.fixture(scope="module")
def folder(server_root: Path) -> Iterator[Path]:
    made = server_root / f"disks-{ports.free(1)[0]}"
    made.mkdir(mode=0o755)
    yield made
    assert not list(made.iterdir()), "an attack left something"
    made.rmdir()


@pytest.mark.parametrize("number", range(3))
def test_a_disk_that_nobody_encrypted_fails_each_drill(bench: Bench, folder: Path, number: int) -> None:
    drill = drills(DiskTarget(bench, folder, lambda: False))[number]
    seen = drill.attack()
    if seen.outcome is Outcome.SKIP:
        missing(seen.summary)
    assert seen.outcome is Outcome.FAIL, (drill.name, seen)


@pytest.mark.parametrize("number", range(3))
def test_an_encrypted_disk_holds_each_drill(bench: Bench, folder: Path, number: int) -> None:
    drill = drills(DiskTarget(bench, folder, lambda: True))[number]
    seen = drill.attack()
    if seen.outcome is Outcome.SKIP:
        _must_have_no_means(seen.summary)
    print(seen.summary)
    assert seen.outcome is Outcome.PASS, (drill.name, seen)


def _must_have_no_means(why: str) -> None:
    """A runner may have no FUSE and no loop devices; its drill then says so, and is no failure."""
    if all(one.why_not for one in offers.probe()):
        pytest.skip(why)
    missing(why)


def test_the_weaker_means_is_proven_too(bench: Bench, folder: Path) -> None:
    """The drill takes the strongest; FUSE is what most machines without root's rights would have."""
    why = next(one.why_not for one in offers.probe() if one.name == "gocryptfs")
    if why:
        pytest.skip(f"gocryptfs: {why}")
    work = folder / "fuse"
    work.mkdir(mode=0o755)
    proof.make_key(work / "key")
    try:
        with offers.strongest(work, work / "key", only="gocryptfs") as up:
            proven = proof.prove(bench, work, up, progress=Silent())
    finally:
        shutil.rmtree(work)
    assert proven.holds, proven
    assert proven.raw.files > 500


def test_a_marker_that_is_hidden_on_an_edge_is_found(tmp_path: Path) -> None:
    marker = b"dbsec-marker-0123456789"
    edge = proof._PIECE - 5
    (tmp_path / "file").write_bytes(bytes(edge) + marker + bytes(7) + marker)
    (tmp_path / f"named-{marker.decode()}").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    found = proof.search(tmp_path, marker)
    assert (found.hits, found.files) == (3, 2)
    assert proof.search(tmp_path / "file", marker).hits == 2
    assert attacks.AT_REST.id == "BAK-AT-REST"
