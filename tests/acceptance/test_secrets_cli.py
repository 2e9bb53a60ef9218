"""``dbsec secrets get`` and ``put`` as users meet them: values go in by reference and come out by --reveal alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def dbsec(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "NEW_PASSWORD": "hunter-2"}
    command = [sys.executable, "-m", "dbsec", "secrets", *argv]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "dbsec.toml").write_text(f'[secrets]\nsource = "file:{tmp_path}/secrets.json"\n')
    (tmp_path / "user").write_text("app\n")
    (tmp_path / "user").chmod(0o600)
    return tmp_path


def test_a_value_goes_in_by_reference_and_comes_out_by_reveal_alone(home: Path):
    done = dbsec(home, "put", "app/db", "username=file:user", "password=env:NEW_PASSWORD")
    assert (done.returncode, done.stdout, done.stderr) == (0, "app/db version 1\n", "")
    hidden = dbsec(home, "get", "app/db")
    assert hidden.stdout == "app/db version 1\n  password = <secret>\n  username = <secret>\n"
    shown = json.loads(dbsec(home, "get", "app/db", "--reveal", "--format", "json").stdout)["result"]
    assert shown == {"name": "app/db", "version": "1", "fields": {"username": "app", "password": "hunter-2"}}


def test_who_saw_an_older_version_replaces_nothing(home: Path):
    for after in ("", "1"):
        assert dbsec(home, "put", "db", "password=env:NEW_PASSWORD", "--after", after).returncode == 0
    done = dbsec(home, "put", "db", "password=file:user", "--after", "1")
    assert (done.returncode, "has version 2, not 1" in done.stderr) == (3, True)
    shown = json.loads(dbsec(home, "get", "db", "--reveal", "--format", "json").stdout)["result"]
    assert shown["fields"] == {"password": "hunter-2"}


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("put", "db", "password=hunter-2"), 2, "by reference"),
        (("put", "db", "hunter-2"), 2, "FIELD=REF"),
        (("put", "db", "a=env:NEW_PASSWORD", "a=env:NEW_PASSWORD"), 2, "each once"),
        (("get", "../db"), 2, "no name of a secret"),
        (("get", "db"), 3, "there is no file"),
        (("get", "db", "--source", "hunter-2"), 2, "names no source"),
        (("lease", "db", "--reveal"), 2, "issues no credentials"),
        (("rotate", "db"), 2, "replaces no password"),
    ],
    ids=["value", "field", "twice", "name", "file", "source", "lease", "rotate"],
)
def test_what_is_wrong_is_told_without_a_value(home: Path, argv: tuple[str, ...], code: int, said: str):
    done = dbsec(home, *argv)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "hunter" not in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_source_the_table_is_named(tmp_path: Path):
    done = dbsec(tmp_path, "get", "db")
    assert (done.returncode, "[secrets] 'source'" in done.stderr) == (2, True)
