"""docs/rules/ is what the rules say of themselves."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from dbsec.migrations import pages
from dbsec.migrations.linter import all_rules

ROOT = Path(__file__).resolve().parents[2]
_SPEC = importlib.util.spec_from_file_location("scripts_rules", ROOT / "scripts" / "rules.py")
script = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(script)


def test_the_folder_is_up_to_date():
    assert script.drift() == [], "run: make rules"


def test_a_stale_a_missing_and_a_left_page_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "TARGET", tmp_path)  # hook: ok another folder, no mock
    assert script.main() == 0
    assert script.drift() == []
    first, second = sorted(path.name for path in tmp_path.glob("MIG*.md"))[:2]
    (tmp_path / first).write_text("stale")
    (tmp_path / second).unlink()
    (tmp_path / "MIG000.md").write_text("left")
    assert script.drift() == ["MIG000.md", first, second]
    assert script.main() == 0
    assert script.drift() == []


@pytest.mark.parametrize("rule", all_rules().values(), ids=lambda rule: rule.code)
def test_a_page_has_all_its_parts(rule):
    page = pages.page(rule)
    for part in ("What PostgreSQL does", "Instead", "Example", "To accept it", "Sources"):
        assert f"\n## {part}\n" in page
    assert rule.example.bad.strip() in page
    assert pages.proven(rule.example.proof) in page
    assert len(re.findall(r"^```", page, re.MULTILINE)) % 2 == 0
    assert "<" not in pages.proven(rule.example.proof).partition("```")[0]
    assert rule.code[:4] in pages.GROUPS
