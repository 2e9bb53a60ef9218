"""db/encrypt_phone is what ``dbsec migrate new`` writes today; the job of its backfill names one column more."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "db" / "encrypt_phone"


def test_the_shipped_files_are_those_that_are_written_for_the_reference_schema(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "dbsec", "migrate", "new", "expand-contract", "encrypt-column"]
    argv += ["--table", "app.users", "--old", "phone", "--new", "phone_enc bytea", "--lookup", "phone_bidx"]
    argv += ["--python", "app.phone_cipher:encrypt_batch", "--check", "app.phone_cipher:agrees"]
    argv += ["--folder", str(tmp_path), "--schema", str(ROOT / "app/schema.sql")]
    subprocess.run(argv, check=True, capture_output=True)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    shipped = {path.name: path.read_text() for path in SHIPPED.iterdir()}
    assert made.keys() == shipped.keys()
    job = next(name for name in made if name.endswith(".toml"))
    assert {name: text for name, text in made.items() if name != job} == {
        name: text for name, text in shipped.items() if name != job
    }, "write them anew: the command stands in this test"
    written, kept = tomllib.loads(made[job]), tomllib.loads(shipped[job])
    assert kept == {**written, "columns": ["phone", "tenant_id"]}
