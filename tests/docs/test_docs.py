"""What the documents say exists: links, make targets, commands and their options."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "db").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text())
    missing = [t for t in targets if not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_make_targets_exist(page):
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert named <= known


def _commands(page: Path) -> list[str]:
    text = page.read_text()
    return [c.strip() for c in re.findall(r"(?:^    |`)dbsec ([a-z][^`#\n]*)", text, re.MULTILINE)]


@pytest.mark.parametrize(
    "command", sorted({*_commands(ROOT / "README.md"), *_commands(ROOT / "docs/migrations_playbook.md")})
)
def test_commands_and_options_exist(command):
    words = re.split(r"[\[\]|\s]+", command)
    name = words[0]
    subs = [w for w in words[1:] if re.fullmatch(r"[a-z]+", w)] if name in ("lab", "migrate", "report") else [""]
    for sub in subs:
        argv = [sys.executable, "-m", "dbsec", name, *([sub] if sub else []), "--help"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        for option in re.findall(r"--[a-z-]+", command):
            assert option in done.stdout
