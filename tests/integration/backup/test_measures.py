"""Metrics of a real repository and server, and the alert rules that stand on them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from tests.restore_bed import Site, site

from dbsec.backup import measures
from dbsec.backup.base.replication import open_replication
from dbsec.backup.wal import slot
from dbsec.backup.wal.names import Segment, object_name
from dbsec.config import Objectives
from dbsec.metrics import Sample
from dbsec.pg import connect
from dbsec.pg.lsn import Lsn
from dbsec.testing.clusters import Cluster

RULES = Path(__file__).parents[3] / "db" / "monitoring" / "backup_rules.yml"
_NAME = re.compile(r"\bdbsec_[a-z_]+")


@pytest.fixture(scope="module")
def place(cluster_factory: Callable[..., Cluster], server_root: Path) -> Iterator[Site]:
    with site(cluster_factory, server_root, "measures", max_slot_wal_keep_size="512MB") as made:
        yield made


def measured(place: Site) -> dict[str, Sample]:
    found, away = measures.collect(place.bed.again, lambda: connect(place.cluster.admin), Objectives())
    assert away == {}
    return {one.name + "".join(one.labels.values()): one for one in found}


def test_what_is_measured_moves_with_what_happens(place: Site) -> None:
    empty = measured(place)
    assert empty["dbsec_backup_backups"].value == 0
    assert empty["dbsec_backup_last_proven_restore_age_seconds"].value == float("inf")
    assert "dbsec_backup_slot_activedbsec_receiver" not in empty
    place.take()
    with open_replication(place.cluster.admin) as session:
        slot.ensure(session, slot.DEFAULT, unlimited=False)
    place.cluster.instance.configure({"archive_command": "false"})
    place.cluster.instance.reload()
    place.sql("CREATE TABLE more AS SELECT generate_series(1, 100000) n", "SELECT pg_switch_wal()")
    with connect(place.cluster.admin) as session:
        while session.execute("SELECT failed_count FROM pg_stat_archiver").fetchone() == (0,):
            session.execute("SELECT pg_sleep(0.05)")
    found = measured(place)
    assert found["dbsec_backup_backups"].value == 1
    assert found["dbsec_backup_last_backup_age_seconds"].value < 60
    assert found["dbsec_backup_wal_behind_bytes"].value > 0
    assert found["dbsec_backup_archive_failing"].value == 1
    assert found["dbsec_backup_archive_waiting_files"].value >= 1
    assert found["dbsec_backup_slot_activedbsec_receiver"].value == 0
    assert found["dbsec_backup_slot_at_riskdbsec_receiver"].value == 0
    assert found["dbsec_backup_wal_holes1"].value == 0
    (reach,) = [one for one in found.values() if one.name == "dbsec_backup_wal_frontier_lsn"]
    later = Segment.at(1, Lsn(int(reach.value)), 16 << 20).next
    place.bed.repository.put(object_name(later.next.name), b"behind a hole", timeline=1)
    assert measured(place)["dbsec_backup_wal_holes1"].value == 1
    assert measured(place)["dbsec_backup_wal_hole_bytes1"].value >= 16 << 20


def test_each_alert_stands_on_what_is_measured(place: Site) -> None:
    with open_replication(place.cluster.admin) as session:
        slot.ensure(session, slot.DEFAULT, unlimited=False)
    names = {one.name for one in measured(place).values()} | {"dbsec_backup_last_backup_age_seconds"}
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]:
        used = set(_NAME.findall(re.sub(r'"[^"]*"', "", rule["expr"])))
        assert used
        assert used <= names, rule["alert"]
        assert rule["annotations"]["action"]
        assert rule["labels"]["severity"] in ("page", "warn")


def test_what_is_away_is_no_number_and_names_no_secret(place: Site, tmp_path: Path) -> None:
    dsn = tmp_path / "dsn"
    dsn.write_text(place.cluster.admin.but(port=1).text())
    dsn.chmod(0o600)
    told = place.bed.settings
    config = tmp_path / "dbsec.toml"
    config.write_text(f'[backup]\nstore = "{told.store}"\nkms = "{told.kms}"\ndsn = "file:{dsn}"\n')
    file = tmp_path / "dbsec_backup.prom"
    argv = [sys.executable, "-m", "dbsec", "backup", "metrics", "--config", config, "--textfile", file]
    done = subprocess.run(argv, env={**os.environ, **place.bed.environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "the server: cannot log in" in done.stderr
    assert place.cluster.admin.password.reveal() not in done.stderr + file.read_text()
    assert 'dbsec_backup_up{what="server"} 0.0' in file.read_text()
    assert 'dbsec_backup_up{what="store"} 1.0' in file.read_text()
    assert "dbsec_backup_wal_behind_bytes" not in file.read_text()
    config.write_text(f'[backup]\nstore = "file://{tmp_path}/none"\nkms = "{told.kms}"\ndsn = "file:{dsn}"\n')
    done = subprocess.run(argv, env={**os.environ, **place.bed.environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "the store: " in done.stderr
