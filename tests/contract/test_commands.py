"""What every command owes: help without a traceback, and a JSON envelope or a clear refusal."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import typer

from dbsec import discovery
from dbsec.cli import commands

COMMANDS = discovery.constants_in(commands, "COMMAND")


def _subcommands() -> list[tuple[str, ...]]:
    return [words for name, app in COMMANDS.items() for words in _below(typer.main.get_command(app), name)]


def _below(command: Any, *words: str) -> list[tuple[str, ...]]:
    inner = getattr(command, "commands", None)
    return [found for name, sub in inner.items() for found in _below(sub, *words, name)] if inner else [words]


@pytest.mark.parametrize("argv", _subcommands(), ids=" ".join)
def test_help_says_what_it_does_and_each_option_is_told(argv):
    done = subprocess.run([sys.executable, "-m", "dbsec", *argv, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    usage, _, rest = done.stdout.partition("\n\n")
    assert " ".join(argv) in usage
    assert rest.strip()


@pytest.mark.parametrize("argv", _subcommands(), ids=" ".join)
def test_a_bad_option_is_a_usage_error(argv):
    argv = (*argv, "--no-such-option")
    done = subprocess.run([sys.executable, "-m", "dbsec", *argv], capture_output=True, text=True, check=False)
    # up to 125 PostgreSQL takes for the end of the archive
    assert done.returncode == (255 if argv[:3] == ("backup", "wal", "fetch") else 2)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["../x", "/etc", "", "a/b", "KEYS"])
@pytest.mark.parametrize("command", ["down", "status", "env"])
def test_the_name_of_a_lab_is_no_path(command, name, tmp_path):
    argv = [sys.executable, "-m", "dbsec", "lab", command, "--name", name]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "is no name of a lab" in done.stderr) == (2, True)


def test_exports_of_a_lab_that_is_not_up_stop_what_follows_them(tmp_path):
    argv = [sys.executable, "-m", "dbsec", "lab", "env"]
    env = {**os.environ, "DBSEC_HOME": str(tmp_path)}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "false\n")


@pytest.mark.parametrize("argv", [("init", "/dev/null/x"), ("report", "build", "{}"), ("lab", "status")])
def test_an_ordinary_mistake_is_no_traceback(argv, tmp_path):
    (tmp_path / "report.json").write_text("{\n}\n")
    named = [str(tmp_path / "report.json") if word == "{}" else word for word in argv]
    env = {**os.environ, "DBSEC_HOME": "/dev/null/home"}
    done = subprocess.run(
        [sys.executable, "-m", "dbsec", *named], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode in (1, 2, 3)
    assert "Traceback" not in done.stderr
    assert "  try: " in done.stderr
