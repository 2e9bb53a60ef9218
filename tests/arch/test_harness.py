"""The harness itself goes red: a folder over its budget, a test that leaves a process, a server that is required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
QUICK = "def test_it():\n    assert True\n"
SLOW = "import time\ndef test_it():\n    time.sleep(1)\n"
LEAVES = """
from dbsec import process
def test_it(tmp_path):
    process.spawn(["sleep", "60"], cwd=tmp_path, log=tmp_path / "log")
"""
NEEDS = """
import pytest
from dbsec.errors import ProgramMissing
from dbsec.testing import clusters
class Nowhere(clusters.Clusters):
    def binaries(self):
        raise ProgramMissing("no such server", hint="make setup-extra")
@pytest.fixture(autouse=True, scope="session")
def absent(request):
    request.config.pluginmanager.get_plugin(CONFTEST).Clusters = Nowhere
def test_it(absent, cluster):
    raise AssertionError("never reached")
"""


@pytest.fixture
def pytest_on(tmp_path):
    """Run pytest on one test under a copy of our conftest, in a tree of its own."""

    def run(test: str, *changes: tuple[str, str], **env: str) -> tuple[int, str]:
        folder = tmp_path / "tests/unit"
        folder.mkdir(parents=True)
        text = CONFTEST.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "tests/conftest.py").write_text(text)
        (folder / "test_one.py").write_text(test.replace("CONFTEST", repr(str(tmp_path / "tests/conftest.py"))))
        settings = "[pytest]\naddopts = -ra --import-mode=importlib\nmarkers = pg(*versions)\n"
        (tmp_path / "pytest.ini").write_text(settings)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DBSEC"))}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"]
        done = subprocess.run(command, cwd=tmp_path, env={**kept, **env}, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_quick_test_passes(pytest_on):
    code, said = pytest_on(QUICK)
    assert (code, "seconds spent/budget: unit 0/" in said) == (0, True), said


def test_a_runaway_folder_is_an_error(pytest_on):
    code, said = pytest_on(SLOW, ('"unit": 120', '"unit": 0.05'))
    assert "1 passed" in said
    assert "ERROR: tests/unit took three times its budget" in said
    assert code == 1


def test_a_little_over_the_budget_is_only_shown(pytest_on):
    code, said = pytest_on(SLOW, ('"unit": 120', '"unit": 0.7'))
    assert (code, "ERROR" in said) == (0, False), said


def test_a_test_that_leaves_a_process_fails(pytest_on):
    code, said = pytest_on(LEAVES)
    assert code == 1
    assert "left behind: process" in said
    assert "(sleep)" in said


@pytest.mark.parametrize(("required", "code", "told"), [("", 0, "1 skipped"), ("all", 1, "1 error")])
def test_a_missing_server_is_a_named_skip_or_an_error(pytest_on, required, code, told):
    ended, said = pytest_on(NEEDS, DBSEC_REQUIRE=required)
    assert ended == code, said
    assert told in said
    assert "PostgreSQL 17 is not installed: make setup-extra" in said
