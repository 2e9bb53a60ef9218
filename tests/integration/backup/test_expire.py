"""``expire`` on a real S3 with object lock: nothing is hidden that cannot be deleted, and the next run ends it."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.backup_bed import SYSTEM, Bed, make_kek
from tests.objectstore import S3
from tests.small_archive import LAST, NOW, PROMISED, At, month, names
from tests.wal_files import SMALL

from dbsec.backup import BackupSettings, Cluster, catalog, init_repository
from dbsec.backup.catalog import BASE, description_name
from dbsec.backup.expiring import expire
from dbsec.backup.verifying import verify
from dbsec.process import clean_environment
from dbsec.retry import wait_until
from dbsec.store.bucket import Locks, locks_of

DBSEC = Path(sys.executable).parent / "dbsec"


@pytest.fixture
def bed(s3: S3, tmp_path: Path) -> Bed:
    """A month of backups in a bucket with versions and object lock."""
    environ = {"KEK": "a passphrase of the tests", **s3.environ}
    settings = BackupSettings(store=s3.url(), kms=make_kek(tmp_path / "kek.json", environ), patience="9s")
    made = init_repository(settings, Cluster(SYSTEM, SMALL), environ=environ)
    bed = Bed(tmp_path, settings, environ, made)
    month(made)
    told = f'store = "{settings.store}"\nkms = "{settings.kms}"\n[backup.retention]\ncount = 1\n'
    (tmp_path / "dbsec.toml").write_text(f"[backup]\n{told}[objectives]\nrecovery_window_days = 7\n")
    return bed


def lock(s3: S3, bed: Bed, name: str, until: datetime, mode: str = "COMPLIANCE") -> None:
    prefix = bed.settings.store.partition("?")[0].rpartition("/")[2]
    s3.boto().put_object_retention(
        Bucket=s3.bucket, Key=f"{prefix}/{name}", Retention={"Mode": mode, "RetainUntilDate": until}
    )


def call(bed: Bed, *argv: str, code: int) -> subprocess.CompletedProcess[str]:
    env = clean_environment(bed.folder, bed.environ)
    done = subprocess.run([DBSEC, "backup", *argv], cwd=bed.folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def locks(bed: Bed) -> Locks:
    found = locks_of(bed.settings.store, environ=bed.environ)
    assert found is not None
    return found


def test_what_is_locked_is_told_stays_whole_and_goes_when_the_lock_ends(s3: S3, bed: Bed) -> None:
    a, a1, *_ = list(catalog.ids(bed.repository))
    until = datetime.now(UTC) + timedelta(seconds=5)
    lock(s3, bed, description_name(a1), until)
    shown = call(bed, "expire", code=0)
    assert f"keep    {a1}  locked (COMPLIANCE) until {until:%Y-%m-%dT%H:%M}" in shown.stdout
    done = call(bed, "expire", "--apply", "--format", "json", code=1)
    told: dict[str, Any] = json.loads(done.stdout)["result"]
    assert told["backups"] == []
    assert set(told["kept"]) == {a, a1}
    assert told["until"].startswith(f"{until:%Y-%m-%dT%H:%M}")
    found = verify(bed.again(), LAST, promised=PROMISED, clock=At(NOW))
    assert found.doubtless
    assert set(catalog.ids(bed.repository).values()) == {True}
    wait_until(
        lambda: locks(bed).of(description_name(a1)) is None, within_s=15, what="the end of the lock", every_s=0.3
    )
    again = call(bed, "expire", "--apply", code=0)
    assert f"deleted {a1}" in again.stdout
    assert f"deleted {a}\n" in again.stdout
    assert "keeps versions" in again.stderr
    assert not names(bed.repository, f"{BASE}{a}/")


def test_a_legal_hold_has_no_end(s3: S3, bed: Bed) -> None:
    a, *_ = list(catalog.ids(bed.repository))
    prefix = bed.settings.store.partition("?")[0].rpartition("/")[2]
    held = f"{BASE}{a}/data/00000001"
    s3.boto().put_object_legal_hold(Bucket=s3.bucket, Key=f"{prefix}/{held}", LegalHold={"Status": "ON"})
    done = expire(bed.again(), LAST, promised=PROMISED, locks=locks(bed))
    assert done.locked == [f"'{held}': under a legal hold"]
    assert done.until is None
    assert names(bed.repository, f"{BASE}{a}/") == [held]
    assert verify(bed.again(), LAST, promised=PROMISED, clock=At(NOW)).doubtless
    s3.boto().put_object_legal_hold(Bucket=s3.bucket, Key=f"{prefix}/{held}", LegalHold={"Status": "OFF"})
    assert expire(bed.again(), LAST, promised=PROMISED, locks=locks(bed)).leftovers == [a]
    assert not names(bed.repository, f"{BASE}{a}/")
