"""``verify`` on what a real server has archived: every layout, chains, the command's exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.backup_bed import Bed
from tests.restore_bed import Site, site
from tests.small_archive import PROMISED

from dbsec.backup.catalog import Layout, backups
from dbsec.backup.settings import RetentionSettings
from dbsec.backup.verifying import verify
from dbsec.backup.wal.names import WAL
from dbsec.process import clean_environment
from dbsec.testing.clusters import Cluster

DBSEC = Path(sys.executable).parent / "dbsec"


@pytest.fixture(scope="module")
def taken(cluster_factory: Callable[..., Cluster], server_root: Path) -> Iterator[Site]:
    """A server with a backup of each layout, one that builds on another, and all its WAL."""
    with site(cluster_factory, server_root, "verify", summarize_wal="on") as made:
        made.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 5000) i")
        made.take(compress="server")
        parent = made.take(compress="client")
        made.take(engine="ranges")
        made.sql("INSERT INTO t SELECT i, 'later' FROM generate_series(1, 500) i")
        made.take(incremental=True, parent=parent.id)
        made.archived()
        yield made


@pytest.fixture
def bed(taken: Site, tmp_path: Path) -> Bed:
    """A copy that may be damaged, and a dbsec.toml for it."""
    shutil.copytree(taken.bed.store_folder, tmp_path / "store")
    settings = taken.bed.settings.model_copy(update={"store": f"file://{tmp_path}/store"})
    told = f'store = "{settings.store}"\nkms = "{settings.kms}"\npatience = "1s"\n'
    (tmp_path / "dbsec.toml").write_text(f"[backup]\n{told}")
    return Bed(tmp_path, settings, taken.bed.environ, taken.bed.repository)


def call(bed: Bed, *argv: str, code: int) -> dict[str, Any]:
    env = clean_environment(bed.folder, bed.environ)
    line = [DBSEC, "backup", "verify", "--format", "json", *argv]
    done = subprocess.run(line, cwd=bed.folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, (done.stdout, done.stderr)
    told: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return told


def test_every_layout_and_its_wal_leave_no_doubt(taken: Site, bed: Bed) -> None:
    found = backups(taken.bed.again())
    assert {one.layout for one in found} == set(Layout)
    assert sorted(bool(one.parent) for one in found) == [False, False, False, True]
    first = call(bed, "--state", "verified", code=0)
    assert first["findings"] == first["result"]["unknown"] == []
    objects = sum(len(list(one.objects())) for one in found)
    assert first["result"]["objects"] > objects
    again = call(bed, "--state", "verified", code=0)["result"]
    assert (again["objects"], again["skipped"]) == (0, first["result"]["objects"])
    for backup in found:
        name = next(iter(backup.objects()))
        path = bed.store_folder / name
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 4
        path.write_bytes(raw)
        done = verify(bed.again(), RetentionSettings(), promised=PROMISED)
        assert name in [one.target for one in done.findings if one.code == "BAK201"]


def test_a_missing_segment_is_found(bed: Bed) -> None:
    segments = sorted(path for path in (bed.store_folder / WAL).rglob("*") if len(path.name) == 24)
    segments[-2].unlink()
    told = call(bed, code=1)["findings"]
    assert {one["code"] for one in told} & {"BAK205", "BAK206"}


def test_a_missing_parent_is_found(bed: Bed) -> None:
    parent = next(one.parent for one in backups(bed.again()) if one.parent)
    shutil.rmtree(bed.store_folder / "base" / parent)
    assert "BAK208" in {one["code"] for one in call(bed, code=1)["findings"]}


def test_a_store_or_a_kek_that_is_away_could_not_be_told(bed: Bed) -> None:
    right = bed.environ
    bed.environ = {**right, "KEK": "another passphrase"}
    call(bed, code=3)
    bed.environ = right
    bed.store_folder.rename(bed.folder / "elsewhere")
    call(bed, code=3)


def test_what_the_command_is_told_is_checked(bed: Bed) -> None:
    call(bed, "--again-after", "soon", code=2)
    (bed.folder / "verified").write_text("something else\n")
    call(bed, "--state", "verified", code=2)
