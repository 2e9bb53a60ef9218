"""Help, version and mistakes on the command line: what goes where, and with which exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dbsec
from dbsec import discovery
from dbsec.cli import commands

DBSEC = Path(sys.executable).parent / "dbsec"
NAMES = [name.replace("_", "-") for name in discovery.names_in(commands)]


def run(*argv, cwd):
    return subprocess.run([DBSEC, *argv], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_help_names_every_command(tmp_path):
    done = run("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    listed = [line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line[2:3].strip()]
    assert listed == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_command_explains_itself(tmp_path, name):
    done = run(name, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: dbsec {name} " in done.stdout
    usage, _, rest = done.stdout.partition("\n\n")
    assert len(rest.split()) > 10, usage
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_that_of_the_package(tmp_path):
    done = run("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"dbsec {dbsec.__version__}\n", "")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "Usage: dbsec"),
        (("nonsense",), "No such command 'nonsense'"),
        (("lab",), "Usage: dbsec lab"),
        (("lab", "up", "--port", "many"), "Invalid value for '--port'"),
        (("lab", "up", "--postgres", "oracle"), "Invalid value for '--postgres'"),
        (("lab", "status", "--format", "yaml"), "Invalid value for '--format'"),
    ],
)
def test_a_mistake_is_usage_on_stderr_and_exit_2(tmp_path, argv, said):
    done = run(*argv, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_hangs_up_is_no_traceback(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([DBSEC, "--help"], cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.returncode != 0
    assert done.stderr == b""
