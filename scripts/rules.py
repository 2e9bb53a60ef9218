"""Write docs/rules/ from the rules themselves (an index and a page for each), and the playbook's table from the facts.

``python scripts/rules.py`` writes them, ``--check`` compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dbsec.migrations import pages
from dbsec.migrations.facts import table
from dbsec.migrations.linter import all_rules

TARGET = Path(__file__).resolve().parents[1] / "docs" / "rules"
PLAYBOOK = TARGET.parent / "migrations_playbook.md"
_MARKS = ("<!-- table: begin (make rules) -->", "<!-- table: end -->")
_HEAD = """\
# The rules of `dbsec migrate lint`

Made by `make rules` from `src/dbsec/migrations/rules/`: one file there is one rule. `dbsec migrate rules CODE` shows
the same page on a terminal.

An *error* blocks reads or writes for a time that grows with the table, breaks the running release, loses data, or
fails; a *warning* is the rest. The severity below is the rule's own: the schema can make it milder (a table that this
release creates is empty, a constraint proves what would be scanned for, a snapshot says that a table is tiny).
"""
_WAIVERS = """\
## Findings on waivers

| code | rule | severity | what it finds |
|---|---|---|---|
| WVR001 | waiver-malformed | warning | an allow without rule, last day or reason, or of no rule that exists |
| WVR002 | waiver-expired | warning | a waiver whose last day has passed; what it covered is a finding again |
| WVR003 | waiver-unused | warning | an allow that covers no finding |
"""


def made() -> dict[str, str]:
    """Return every file of the folder by name."""
    rules = list(all_rules().values())
    parts = [_HEAD]
    for prefix, title in pages.GROUPS.items():
        of_it = [rule for rule in rules if rule.code.startswith(prefix)]
        if of_it:
            parts.append(f"## {title}\n\n{pages.table(of_it, linked=True)}")
    return {"README.md": "\n".join([*parts, _WAIVERS]), **{f"{rule.code}.md": pages.page(rule) for rule in rules}}


def drift() -> list[str]:
    """Name the files that are not as they would be made."""
    wanted = made()
    there = {path.name: path.read_text(encoding="utf-8") for path in TARGET.glob("*.md")}
    old = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
    return [*old, *([PLAYBOOK.name] if PLAYBOOK.read_text(encoding="utf-8") != playbook() else [])]


def playbook() -> str:
    """Return the playbook with the table of today's facts between its marks."""
    text = PLAYBOOK.read_text(encoding="utf-8")
    begin, end = (text.index(mark) for mark in _MARKS)
    return text[: begin + len(_MARKS[0])] + "\n" + table.markdown() + text[end:]


def main() -> int:
    if "--check" in sys.argv[1:]:
        return 1 if drift() else 0
    TARGET.mkdir(exist_ok=True)
    wanted = made()
    for path in TARGET.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (TARGET / name).write_text(text, encoding="utf-8")
    PLAYBOOK.write_text(playbook(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
