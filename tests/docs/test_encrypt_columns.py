"""db/encrypt_phone and db/encrypt_email are what ``dbsec migrate new`` writes today, but for what is named here."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DB = ROOT / "db"
# the second change comes after the first one: its files have the next numbers, and see what the first one left
CHANGES = {
    "encrypt_phone": ("phone", "phone_bidx", "phones", [], ["phone", "tenant_id"]),
    "encrypt_email": ("email", "email_enc", "emails", ["encrypt_phone"], ["email", "tenant_id"]),
}
BY_HAND = {"007_contract_users_encrypted.sql", "007_contract_users_encrypted.down.sql"}


@pytest.mark.parametrize("folder", CHANGES)
def test_the_shipped_files_are_those_that_are_written_for_the_reference_schema(folder: str, tmp_path: Path) -> None:
    column, lookup, functions, earlier, columns = CHANGES[folder]
    schema = tmp_path / "schema.sql"
    schema.write_text((ROOT / "app/schema.sql").read_text() + "".join(map(_applied, earlier)))
    written = tmp_path / "written"
    written.mkdir()
    for one in earlier:
        shutil.copytree(DB / one, written, dirs_exist_ok=True)
    before = {path.name for path in written.iterdir()}
    argv = [sys.executable, "-m", "dbsec", "migrate", "new", "expand-contract", "encrypt-column"]
    argv += ["--table", "app.users", "--old", column, "--new", f"{column}_enc bytea", "--lookup", lookup]
    argv += ["--python", f"app.encryption:encrypt_{functions}", "--check", f"app.encryption:{functions}_agree"]
    argv += ["--folder", str(written), "--schema", str(schema)]
    subprocess.run(argv, check=True, capture_output=True)
    made = {path.name: path.read_text() for path in written.iterdir() if path.name not in before}
    shipped = {path.name: path.read_text() for path in (DB / folder).iterdir() if path.name not in BY_HAND}
    assert made.keys() == shipped.keys()
    job = next(name for name in made if name.endswith(".toml"))
    assert {name: text for name, text in made.items() if name != job} == {
        name: text for name, text in shipped.items() if name != job
    }, "write them anew: the command stands in this test"
    assert tomllib.loads(shipped[job]) == {**tomllib.loads(made[job]), "columns": columns}


def _applied(folder: str) -> str:
    """What expand and contract of a change leave; the way back is no part of it."""
    files = sorted(path for path in (DB / folder).glob("*.sql") if not path.name.endswith(".down.sql"))
    return "".join(path.read_text() for path in files)
