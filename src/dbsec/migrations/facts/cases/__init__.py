"""The cases: statements on one schema, and by hand what locks and work cannot show of them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Case:
    """``sql`` runs as psql would run it after ``setup.sql`` and ``setup``.

    ``harm``, by hand: release (breaks what runs: ``old`` fails afterwards), data (``lost`` gives other rows, or ``old``
    fails), fails (is certain to fail), lock (holds a lock for as long as it likes); "" where only what is measured
    counts. ``judge`` False: good people may differ, so that no verdict is asked for.
    """

    id: str
    sql: str
    setup: str = ""
    since: int = 14
    until: int = 99
    harm: str = ""
    old: str = ""
    lost: str = ""
    judge: bool = True

    def runs_on(self, major: int) -> bool:
        """Tell whether a major knows its syntax, and behaves as its label says."""
        return self.since <= major <= self.until


@cache
def every() -> tuple[Case, ...]:
    """Read all cases, in the order of their files."""
    found: list[Case] = []
    for path in sorted(files(__package__).iterdir(), key=lambda entry: entry.name):
        if path.name.endswith(".toml"):
            found += [Case(**fields) for fields in tomllib.loads(path.read_text(encoding="utf-8"))["case"]]
    return tuple(found)


@cache
def schema_sql() -> str:
    """Read the schema, with its rows, that every case starts from."""
    return files(__package__).joinpath("setup.sql").read_text(encoding="utf-8")
