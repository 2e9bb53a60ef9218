"""kill -9 at every step of a rotation, a rewrap, a reencryption and a shredding: the next run does what is left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dbsec.crypto import DecryptionFailed
from dbsec.crypto.life import rotation
from dbsec.kms import KekState
from dbsec.testing import faults

HERE = Path(__file__).parent


@pytest.fixture
def prepare(scene):
    """Begin each life anew: rows of one tenant under its first key, and what the job reads in its folder."""
    passphrase = scene.folder / "passphrase"

    def prepare(folder: Path) -> None:
        scene.db.execute("TRUNCATE app.users, dbsec.keyring, dbsec.journal, dbsec.backfills RESTART IDENTITY CASCADE")
        shutil.copy2(folder.parent / "acme.json", folder)
        scene.folder, scene.kms_uri = folder, f"file-kek:{folder}/{{tenant}}.json?passphrase=file:{passphrase}"
        scene.fill(12, tenants=("acme",))
        scene.config()
        (folder / "wanted").write_text(" ".join(str(row.id) for row in scene.keyring() if row.purpose == "data"))

    return prepare


def whole(scene) -> None:
    assert scene.phones() == {n: scene.phone(n) for n in range(1, 13)}


def test_a_rotation(scene, prepare, tmp_path):
    def check(folder: Path) -> None:
        states = [str(row.state) for row in scene.keyring() if row.purpose == "data"]
        assert states == ["retired", "active"]
        whole(scene)

    job = faults.Job("jobs:rotate", prepare, search=(HERE,))
    deaths = faults.survives_kill_at_every_step(job, scratch=tmp_path, check=check)
    assert len(deaths) == 3


def test_a_rewrap_with_a_new_kek_version(scene, prepare, tmp_path):
    def check(folder: Path) -> None:
        assert {row.kek_version for row in scene.keyring()} == {"2"}, "a KEK was rotated twice, or a key left behind"
        assert scene.db.execute("SELECT count(*) FROM dbsec.journal").fetchone() == (0,)
        whole(scene)

    name = scene.kms().describe({"tenant": "acme"}).kek
    steps = (f"rotate {name}", "keys up to 2 wrapped")
    job = faults.Job("jobs:rewrap_all", prepare, search=(HERE,))
    deaths = faults.survives_kill_at_every_step(job, scratch=tmp_path, check=check, steps=steps)
    assert len(deaths) == 4


def test_a_reencryption(scene, prepare, tmp_path):
    def begin(folder: Path) -> None:
        prepare(folder)
        list(rotation.rotate(scene.connect, scene.kms(), rotation.candidates(scene.db)))

    def check(folder: Path) -> None:
        active = [row.id for row in scene.keyring() if row.purpose == "data" and row.state == "active"]
        assert scene.key_ids() == {active[0]: 12}
        whole(scene)

    steps = ("range 1 batch 1", "range 1 batch 1 cursor")
    job = faults.Job("jobs:reencrypt_phones", begin, search=(HERE,))
    deaths = faults.survives_kill_at_every_step(job, scratch=tmp_path, check=check, steps=steps)
    assert len(deaths) >= 4


def test_a_shredding(scene, prepare, tmp_path):
    def check(folder: Path) -> None:
        assert {(str(row.state), row.wrapped) for row in scene.keyring()} == {("destroyed", b"")}
        assert scene.kms().describe({"tenant": "acme"}).state is KekState.DESTROYED
        assert scene.db.execute("SELECT count(*) FROM dbsec.journal").fetchone() == (0,)
        with pytest.raises(DecryptionFailed):
            scene.phones()

    job = faults.Job("jobs:shred", prepare, search=(HERE,))
    deaths = faults.survives_kill_at_every_step(job, scratch=tmp_path, check=check, steps=("destroy the KEK",))
    assert len(deaths) == 3
