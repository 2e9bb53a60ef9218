"""``dbsec backup take``, ``list`` and ``show`` as processes: what they print where, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests import taken
from tests.backup_bed import Bed, bed_of

from dbsec import process
from dbsec.backup import catalog
from dbsec.process import clean_environment
from dbsec.retry import wait_until
from dbsec.testing.clusters import Cluster

DBSEC = Path(sys.executable).parent / "dbsec"
LOST = "20200101T000000Z-00000000"


@pytest.fixture
def bed(cluster: Cluster, tmp_path: Path) -> Bed:
    made = bed_of(cluster, tmp_path)
    dsn = tmp_path / "dsn"
    dsn.write_text(cluster.admin.text())
    dsn.chmod(0o600)
    told = f'store = "{made.settings.store}"\nkms = "{made.settings.kms}"\ndsn = "file:{dsn}"\n'
    (tmp_path / "dbsec.toml").write_text(f"[backup]\n{told}")
    return made


def call(bed: Bed, *argv: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    env = clean_environment(bed.folder, bed.environ)
    done = subprocess.run([DBSEC, "backup", *argv], cwd=bed.folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done


def result(bed: Bed, *argv: str, code: int = 0) -> Any:
    return json.loads(call(bed, *argv, "--format", "json", code=code).stdout)["result"]


def test_a_backup_is_taken_listed_and_shown(bed: Bed, cluster: Cluster) -> None:
    told = result(bed, "take", "--no-wait", "--label", "first", "--compress", "client")
    assert (told["label"], told["layout"], told["wal_there"]) == ("first", "slices", False)
    assert cluster.admin.password is not None
    header, row = (line.split("\t") for line in call(bed, "list").stdout.splitlines())
    shown = dict(zip(header, row, strict=True))
    assert (shown["backup"], shown["state"], shown["kind"], shown["age"]) == (told["id"], "finished", "full", "0 min")
    assert float(shown["ratio"]) == pytest.approx(told["plain_bytes"] / told["stored_bytes"], abs=0.06)
    assert result(bed, "show", told["id"], code=1)["wal_missing"]
    taken.archive_wal(cluster, bed.repository)
    text = call(bed, "show", told["id"]).stdout
    assert f"stop lsn\t{told['stop_lsn']}\n" in text
    assert "wal missing\t-\n" in text


def test_a_taker_waits_for_the_wal_and_says_nothing_secret(bed: Bed, cluster: Cluster) -> None:
    log = bed.folder / "log"
    taker = process.spawn([DBSEC, "backup", "take"], cwd=bed.folder, log=log, env=bed.environ)
    wait_until(lambda: bool(catalog.backups(bed.again())), within_s=30, what="the backup")
    wait_until(lambda: "waiting for WAL" in log.read_text(), within_s=30, what="the taker to wait")
    taken.archive_wal(cluster, bed.repository)
    wait_until(lambda: not taker.alive, within_s=30, what="the taker's end")
    process.stop(taker)
    text = log.read_text()
    assert "is not there yet" not in text
    assert f"backup {catalog.backups(bed.repository)[0].id}: full" in text
    assert cluster.admin.password is not None
    assert cluster.admin.password.reveal() not in text
    assert bed.environ["KEK"] not in text


def test_what_is_no_backup_is_told_apart(bed: Bed) -> None:
    bed.repository.put(catalog.data_name(LOST, 0), b"a part")
    (entry,) = result(bed, "list")
    assert (entry["id"], entry["state"], entry["objects"]) == (LOST, "unfinished", 1)
    done = call(bed, "show", LOST, code=1)
    assert done.stdout == ""
    assert "there is no finished backup" in done.stderr
    bed.repository.put(catalog.description_name(LOST), b"{}")
    (entry,) = result(bed, "list", code=1)
    assert entry["state"] == "unreadable"
    assert "no description of a backup" in entry["why"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--incremental",), "no backup yet"),
        (("--parent", LOST), "a full backup has no parent"),
        (("--rate", "0"), "a rate is more"),
        (("--dsn", "env:NOWHERE"), "NOWHERE"),
    ],
    ids=["first", "parent", "rate", "dsn"],
)
def test_wrong_use_is_told(bed: Bed, argv: tuple[str, ...], said: str) -> None:
    done = call(bed, "take", *argv, code=2)
    assert said in done.stderr
    assert done.stdout == ""
