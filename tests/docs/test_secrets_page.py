"""The page on secrets: its example runs, and its alerts ask for what is measured."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dbsec.secrets import Cached

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/secrets_rotation.md").read_text()
RULES = (ROOT / "db/monitoring/secrets_rules.yml").read_text()


EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", [str(one) for one in range(len(EXAMPLES))])
def test_an_example_runs(number: str):
    exec(EXAMPLES[int(number)], {})


def test_the_page_has_an_example_of_a_source_and_one_of_the_cache():
    assert ["open_secrets" in one for one in EXAMPLES] == [True, False]


def test_the_commands_run(tmp_path: Path):
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "dbsec.toml").write_text(f'[secrets]\nsource = "file:{tmp_path}/secrets.json"\n')
    (tmp_path / "user").write_text("app\n")
    (tmp_path / "user").chmod(0o600)
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": programs, "NEW_PASSWORD": "hunter-2"}
    argv = ["sh", "-euc", commands]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "app/db version 2" in done.stdout
    assert "hunter" not in done.stdout


def test_the_alerts_are_on_what_is_measured():
    cache = Cached("db", lambda: "v")
    cache.get()
    measured = {sample.name for sample in cache.samples()}
    asked = set(re.findall(r"dbsec_secret_\w+", RULES))
    assert asked
    assert asked <= measured
