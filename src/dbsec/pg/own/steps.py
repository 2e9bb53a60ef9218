"""The numbered SQL files that make the schema: one a version, each run once, in order, as its owner."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources

_FILE = re.compile(r"(?P<version>\d{3})_(?P<name>[a-z0-9_]+)\.sql")
_TABLE = re.compile(r"^CREATE (?:TABLE|VIEW|OR REPLACE VIEW)(?: IF NOT EXISTS)? dbsec\.([a-z_]+)", re.MULTILINE)
_MIN_CLIENT = re.compile(r"^-- min_client: (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Step:
    """One file. A dbsec that knows less than version ``min_client`` must not use a schema that has this step.

    ``-- min_client: N`` says so in the file; without it, a dbsec one version older still works.
    """

    version: int
    name: str
    sql: str

    @property
    def min_client(self) -> int:
        found = _MIN_CLIENT.search(self.sql)
        return int(found[1]) if found else max(self.version - 1, 1)

    @property
    def tables(self) -> tuple[str, ...]:
        """Name the tables and views that the file makes; the schema may hold others, which no user is given."""
        return tuple(_TABLE.findall(self.sql))


def load() -> tuple[Step, ...]:
    """Read the steps that this dbsec brings, oldest first."""
    files = resources.files(__package__).joinpath("sql").iterdir()
    found = [(match, file) for file in files if (match := _FILE.fullmatch(file.name))]
    steps = [Step(int(match["version"]), match["name"], file.read_text(encoding="utf-8")) for match, file in found]
    return tuple(sorted(steps, key=lambda step: step.version))


STEPS = load()
VERSION = STEPS[-1].version
