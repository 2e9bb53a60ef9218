"""What the documents say exists: links, make targets, commands and their options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from dbsec import discovery
from dbsec.cli import commands

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = discovery.constants_in(commands, "COMMAND")
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
    text = page.read_text().replace("\\\n", " ")
    return [c.strip() for c in re.findall(r"(?:^    |`)dbsec ([a-z][^`#\n]*)", text, re.MULTILINE)]


def _named(command: str) -> list[Any]:
    """Find what is named: the words that are commands, and after a bar its siblings."""
    bare = re.sub(r"\[[^]]*\]", " ", command)
    first, *others = [part.split() for part in bare.split("|")]
    group: Any = typer.main.get_command(COMMANDS[first[0].replace("-", "_")])
    found = group
    for word in first[1:]:
        if not hasattr(found, "commands") or word.startswith("-"):
            break
        group, found = found, found.commands[word]
    return [found, *(group.commands[words[0]] for words in others if words)]


@pytest.mark.parametrize("command", sorted({command for page in PAGES for command in _commands(page)}))
def test_commands_and_options_exist(command):
    told = {option for one in _named(command) for parameter in one.params for option in parameter.opts}
    assert set(re.findall(r"(?<=\s)--[a-z-]+|(?<=\[)--[a-z-]+", command)) <= told | {"--help"}
