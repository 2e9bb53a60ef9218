"""PostgreSQL as it was measured: cases on one schema, and per major what each of them did.

``cases/`` holds the statements, ``pgNN.json`` what a server of that major did with each of them (``measure``), and
``builtinsNN.json`` what its catalog says of its own functions and casts. ``dbsec migrate facts`` makes them again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbsec import files

if TYPE_CHECKING:
    from dbsec.migrations.facts.cases import Case
    from dbsec.pg import Conninfo
    from dbsec.progress import Progress

MEASURED = (15, 17, 18)


def measure(
    admin: Conninfo, cases: Sequence[Case] | None = None, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Run the cases (None: all) on a server for nothing else, as its superuser; shape: see ``measuring``."""
    from dbsec.migrations.facts import measuring  # the driver is imported only where a server is asked

    return measuring.measure(admin, cases, progress=progress)


def dump(measured: dict[str, Any], folder: Path) -> list[Path]:
    """Write what ``measure`` gave into ``pgNN.json`` and ``builtinsNN.json``, one case or list a line."""
    major = measured["major"]
    head = f'{{\n"major": {major},\n"version": {json.dumps(measured["version"])},\n"cases": {{\n'
    facts = folder / f"pg{major}.json"
    files.write_atomic(facts, head + _lines(measured["cases"]) + "\n}}\n", mode=0o644)
    lists = folder / f"builtins{major}.json"
    files.write_atomic(lists, "{\n" + _lines(measured["builtins"]) + "\n}\n", mode=0o644)
    return [facts, lists]


@cache
def load(major: int) -> dict[str, Any]:
    """Load what was measured on a major; ``KeyError`` where none was."""
    if major not in MEASURED:
        raise KeyError(major)
    loaded: dict[str, Any] = json.loads(Path(__file__).with_name(f"pg{major}.json").read_text(encoding="utf-8"))
    return loaded


def _lines(entries: dict[str, Any]) -> str:
    return ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())
