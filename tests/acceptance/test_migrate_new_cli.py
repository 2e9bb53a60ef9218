"""``dbsec migrate new | rewrite | residue`` as a person meets them, with the runner and the guard in between."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dbsec.migrations import guard
from dbsec.migrations.guard import Policy
from dbsec.pg import Conninfo, connect, own

Run = Callable[..., subprocess.CompletedProcess[str]]
CRYPTO = """
import hashlib

def encrypt(rows):
    for row in rows:
        sealed = bytes(255 - b for b in row["phone"].encode())
        yield {"id": row["id"], "phone_enc": sealed, "phone_bidx": hashlib.sha256(sealed).digest()}

def check(rows):
    for row in rows:
        yield bytes(255 - b for b in row["phone_enc"] or b"").decode() == row["phone"]
"""
SCHEMA = """
CREATE SCHEMA app;
CREATE TABLE app.users (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, phone text NOT NULL UNIQUE);
CREATE TABLE app.orders (id bigint PRIMARY KEY, user_id bigint REFERENCES app.users (id));
INSERT INTO app.users (name, phone) SELECT 'a b', 'CANARY' || n FROM generate_series(1, 300) n;
"""


@pytest.fixture
def value() -> str:
    return f"+49{secrets.token_hex(6)}-"


@pytest.fixture
def conninfo(database: Any, value: str) -> Iterator[Conninfo]:
    with connect(database.conninfo) as admin:
        admin.execute(SCHEMA.replace("CANARY", value).encode())
        own.install(admin)
        guard.install(admin, Policy(max_table_size=0, protected={"table": ("app.users",)}))
    yield database.conninfo
    with connect(database.conninfo) as admin:
        guard.uninstall(admin)


@pytest.fixture
def run(conninfo: Conninfo, tmp_path: Path, value: str) -> Run:
    """Run ``dbsec migrate ARGV`` in a folder with a service's code."""
    (tmp_path / "db/migrations").mkdir(parents=True)
    (tmp_path / "crypto.py").write_text(CRYPTO)
    (tmp_path / "dbsec.toml").write_text("[migrations]\nservice = 'app'\nrelease = 'green'\n")

    def run(*argv: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dbsec", "migrate", *argv]
        env = {**os.environ, "DSN": conninfo.text(), "CANARY": value, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=120)
        assert "Traceback" not in done.stderr
        assert value not in done.stdout + done.stderr
        assert done.returncode == code, (done.stdout, done.stderr)
        return done

    return run


def test_encrypt_a_column_from_the_files_to_the_last_byte(run: Run, database: Any, tmp_path: Path) -> None:
    new = ("new", "expand-contract", "encrypt-column", "--table", "app.users", "--old", "phone", "--new", "phone_enc")
    crypto = ("--python", "crypto:encrypt", "--check", "crypto:check", "--lookup", "phone_bidx")
    made = run(*new, *crypto, "--dsn", "env:DSN").stdout.split()
    assert [Path(path).name for path in made] == [
        "001_expand_users_phone_enc.sql",
        "001_expand_users_phone_enc.down.sql",
        "002_backfill_users_phone_enc.toml",
        "002_backfill_users_phone_enc.down.sql",
        "003_contract_users_phone_enc.sql",
        "003_contract_users_phone_enc.down.sql",
    ]
    search = ("residue", "--dsn", "env:DSN", "--canary", "env:CANARY", "--format", "json")
    search += ("--data", str(database.cluster.instance.data))
    before = run(*search, code=1)
    (tmp_path / "before.json").write_text(before.stdout)
    assert json.loads(before.stdout)["result"]["kinds"]["table app.users"] >= 300
    run("up", "--dsn", "env:DSN", "--phase", "backfill")
    run("up", "--dsn", "env:DSN", "--force", "no release but this one")
    assert "table app.users" in json.loads(run(*search, code=1).stdout)["result"]["kinds"]
    planned = run("rewrite", "app.users", "--dsn", "env:DSN")
    assert "app.users: online" in planned.stdout
    done = json.loads(run("rewrite", "app.users", "--dsn", "env:DSN", "--apply", "--format", "json").stdout)["result"]
    assert done["method"] == "online"
    assert done["left"] == []
    gone = run(*search, "--before", "before.json")
    assert json.loads(gone.stdout)["result"]["traces"] == []


def test_a_rename_goes_forth_and_back_by_the_runner(run: Run, database: Any, tmp_path: Path) -> None:
    new = ("new", "expand-contract", "rename-column", "--table", "app.users", "--old", "phone", "--new", "mobile")
    told = run(*new, "--dsn", "env:DSN").stderr
    assert "next: dbsec migrate plan db/migrations --dsn env:DSN\n" in told  # as it stands there, it runs
    run("lint", "db/migrations", "--dsn", "env:DSN")
    run("up", "--dsn", "env:DSN", "--phase", "backfill")
    with connect(database.conninfo) as session:
        assert session.execute("SELECT count(*) FROM app.users WHERE phone <> mobile").fetchone() == (0,)
    run("down", "--dsn", "env:DSN", "--to", "0")
    with connect(database.conninfo) as session:
        shape = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'app.users'::regclass AND attname = 'mobile'"
        assert session.execute(shape.encode()).fetchone() == (0,)
    again = run(*new, "--dsn", "env:DSN", "--format", "json")  # numbered on, never over a file
    assert [path.rpartition("/")[2][:3] for path in json.loads(again.stdout)["result"]["files"]] == [
        *("004", "004", "005", "005", "006", "006")
    ]
    assert len(list((tmp_path / "db/migrations").iterdir())) == 12


def test_what_is_wrong_is_told_and_nothing_is_written(run: Run, conninfo: Conninfo, tmp_path: Path) -> None:
    new = ("new", "expand-contract", "rename-column", "--new", "mobile", "--old", "phone")
    assert "--schema schema.sql" in run(*new, "--table", "app.users", code=2).stderr
    assert "no table 'app.people'" in run(*new, "--table", "app.people", "--dsn", "env:DSN", code=2).stderr
    missing = run(*new, "--table", "app.users", "--dsn", "env:DSN", "--folder", "nowhere", code=2)
    assert "no folder 'nowhere'" in missing.stderr
    assert list((tmp_path / "db/migrations").iterdir()) == []
    with connect(conninfo) as session:
        session.execute("CREATE VIEW app.v AS SELECT id FROM app.users")
    refused = run("rewrite", "app.users", "--dsn", "env:DSN", code=1)
    assert "refused: it has a view or rule: 'app.v'" in refused.stdout
    assert "--in-window" in refused.stdout
    assert "online" in run("rewrite", "app.users", "--dsn", "env:DSN", "--apply", code=3).stderr
    run("rewrite", "app.users", "--dsn", "env:DSN", "--apply", "--in-window")
    run("rewrite", "app.users", "--dsn", "env:DSN", "--apply", "--abort")
    (tmp_path / "empty.json").write_text('{"result": {"traces": []}}')
    nothing = ("residue", "--dsn", "env:DSN", "--canary", "env:DSN", "--before", "empty.json")
    assert "proves nothing" in run(*nothing, code=3).stderr
