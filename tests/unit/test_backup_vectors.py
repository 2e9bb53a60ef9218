"""A repository from another day opens, by dbsec and by the one file that has nothing of it; altered, it does not."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import by_hand

from dbsec.backup import BackupSettings, KeyUnavailable, Tampered, open_repository
from dbsec.errors import NewerFormat

TOLD: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "backup_sealed.json").read_text())
VALID, INVALID = TOLD["valid"], TOLD["invalid"]
Opens = Callable[[Path, str], bytes]


def written(folder: Path, changes: dict[str, str]) -> Path:
    """Write the repository of the vectors."""
    for name, raw in {**TOLD["files"], **changes}.items():
        path = folder / "store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes.fromhex(raw))
    (folder / "kek.json").write_text(json.dumps(TOLD["kek"]))
    (folder / "kek.json").chmod(0o600)
    return folder


def by_dbsec(folder: Path, name: str) -> bytes:
    uri = f"file-kek:{folder}/kek.json?passphrase=env:KEK"
    settings = BackupSettings(store=f"file://{folder}/store", kms=uri)
    return open_repository(settings, environ={"KEK": TOLD["passphrase"]}).get(name)


def by_the_file(folder: Path, name: str) -> bytes:
    spec = importlib.util.spec_from_file_location("open_sealed", by_hand.SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    opened: bytes = module.Repository(folder / "store", str(folder / "kek.json"), TOLD["passphrase"], {}).open(name)
    return opened


READERS = pytest.mark.parametrize("opens", [by_dbsec, by_the_file], ids=["dbsec", "by hand"])


@READERS
def test_what_was_sealed_another_day_opens(tmp_path: Path, opens: Opens) -> None:
    folder = written(tmp_path, {})
    assert {one["object"]: opens(folder, one["object"]).hex() for one in VALID} == {
        one["object"]: one["plaintext"] for one in VALID
    }


@READERS
@pytest.mark.parametrize("vector", INVALID, ids=lambda vector: vector["name"])
def test_what_was_altered_does_not(tmp_path: Path, opens: Opens, vector: dict[str, Any]) -> None:
    folder = written(tmp_path, vector["files"])
    with pytest.raises((Tampered, KeyUnavailable, NewerFormat, SystemExit)) as caught:
        opens(folder, vector["object"])
    assert str(caught.value)


def test_the_file_has_fewer_than_200_lines() -> None:
    assert len(by_hand.SCRIPT.read_text().splitlines()) < 200
