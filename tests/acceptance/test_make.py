"""The targets of the Makefile, as far as they can be told without making everything again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("target", ["setup-test", "lint"])
def test_what_is_installed_is_not_installed_again(target):
    """``make -n`` prints what would run; the environment of these tests is complete, so nothing is installed."""
    if not (ROOT / ".venv/.test.stamp").exists():
        pytest.skip("these tests do not run in the environment that make has made")
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip" not in done.stdout


def test_help_names_every_target_that_a_person_calls():
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=False)
    named = {line.split()[1] for line in done.stdout.splitlines()}
    assert {"demo", "drill", "test", "lint", "bench", "setup", "setup-extra", "lock", "clean"} <= named
