"""``dbsec migrate plan | up | down | status | resume`` as a person or a deployment meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbsec.pg import Conninfo, connect, own

Run = Callable[..., subprocess.CompletedProcess[str]]
EXPAND = "-- dbsec: phase expand\nSET lock_timeout = '1s';\nALTER TABLE app.users ADD COLUMN x text;\n"
CONTRACT = "-- dbsec: phase contract\nSET lock_timeout = '1s';\nALTER TABLE app.users DROP COLUMN phone;\n"


@pytest.fixture
def conninfo(database: Any) -> Conninfo:
    with connect(database.conninfo) as admin:
        admin.execute("CREATE SCHEMA app; CREATE TABLE app.users (id bigint PRIMARY KEY, phone text)")
        own.install(admin)
    found: Conninfo = database.conninfo
    return found


@pytest.fixture
def run(conninfo: Conninfo, tmp_path: Path) -> Run:
    """Run ``dbsec migrate ARGV --dsn env:DSN`` in a folder whose db/migrations are ours."""
    folder = tmp_path / "db" / "migrations"
    folder.mkdir(parents=True)
    (folder / "001_x.sql").write_text(EXPAND)
    (folder / "001_x.down.sql").write_text("ALTER TABLE app.users DROP COLUMN x;\n")
    (folder / "002_drop.sql").write_text(CONTRACT)
    (tmp_path / "dbsec.toml").write_text("[migrations]\nservice = 'app'\nrelease = 'green'\n")

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dbsec", "migrate", *argv, "--dsn", "env:DSN"]
        env = {**os.environ, "DSN": conninfo.text()}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=120)
        assert "Traceback" not in done.stderr
        assert conninfo.password is not None
        assert conninfo.password.reveal() not in done.stdout + done.stderr
        return done

    return run


def test_a_release_from_plan_to_down(run: Run, tmp_path: Path) -> None:
    planned = run("plan", "--format", "json", "--to", "1")
    assert planned.returncode == 0, planned.stderr
    result = json.loads(planned.stdout)["result"]
    (first,) = result["migrations"]
    assert first["peak_lock"] == {"table": "app.users", "mode": "ACCESS EXCLUSIVE"}
    assert [one["class"] for one in first["statements"]] == ["session", "short"]

    done = run("up")  # the contract waits: nobody has watched
    assert done.returncode == 3
    assert "001_x: applied: 2 statements" in done.stdout
    assert "dbsec: not-observed: not observed for long enough: since" in done.stderr
    assert "  try: dbsec migrate watch" in done.stderr

    told = run("status")
    assert told.returncode == 0
    assert "001 x     expand    applied" in told.stdout
    assert "002 drop  contract  pending" in told.stdout

    forced = run("up", "--force", "there is no old release", "--format", "json")
    assert forced.returncode == 0, forced.stderr
    assert [one["name"] for one in json.loads(forced.stdout)["result"]["applied"]] == ["drop"]

    back = run("down")
    assert back.returncode == 1
    assert "the way forward after 002_drop:" in back.stdout
    assert "ALTER TABLE app.users ADD COLUMN phone text;" in back.stdout
    assert "dbsec: roll-forward: '002_drop' is a contract that took column app.users.phone away" in back.stderr

    (tmp_path / "db/migrations/001_x.sql").write_text(EXPAND + "-- edited\n")
    edited = run("up")
    assert edited.returncode == 1
    assert "git checkout db/migrations/001_x.sql" in edited.stderr


def test_what_cannot_be_told_or_is_wrong_has_an_exit_code_of_its_own(run: Run, tmp_path: Path) -> None:
    assert run("up", "no/such/folder").returncode == 2
    wrong = run("plan", "--free-disk", "lots")
    assert wrong.returncode == 2
    assert "'lots' is no size" in wrong.stderr
    full = run("plan", "--to", "1", "--free-disk", "1TB")
    assert full.returncode == 0
    assert run("resume").stdout == "nothing to do\n"
    canary = run("up", "--canary", "env:DSN")
    assert canary.returncode == 1
    assert "on the canary: canary: the canary is production itself" in canary.stderr
