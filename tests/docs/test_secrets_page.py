"""The page on secrets: its example runs, and its alerts ask for what is measured."""

from __future__ import annotations

import re
from pathlib import Path

from dbsec.secrets import Cached

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/secrets_rotation.md").read_text()
RULES = (ROOT / "db/monitoring/secrets_rules.yml").read_text()


def test_the_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(example, {})


def test_the_alerts_are_on_what_is_measured():
    cache = Cached("db", lambda: "v")
    cache.get()
    measured = {sample.name for sample in cache.samples()}
    asked = set(re.findall(r"dbsec_secret_\w+", RULES))
    assert asked
    assert asked <= measured
