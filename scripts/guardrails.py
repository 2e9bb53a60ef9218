"""Write db/migrations/guardrails.sql and its way back from the policy in db/guardrails.toml.

``python scripts/guardrails.py`` writes them, ``--check`` compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dbsec.migrations.guard.policy import Policy
from dbsec.migrations.guard.script import render, render_down

DB = Path(__file__).resolve().parents[1] / "db"


def made() -> dict[Path, str]:
    """Return both files."""
    folder = DB / "migrations"
    policy = Policy.load(DB / "guardrails.toml")
    return {folder / "guardrails.sql": render(policy), folder / "guardrails.down.sql": render_down()}


def drift() -> list[str]:
    """Name the files that are not as they would be made."""
    return [str(path) for path, text in made().items() if not path.exists() or path.read_text("utf-8") != text]


def main() -> int:
    if "--check" in sys.argv[1:]:
        return 1 if drift() else 0
    for path, text in made().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
