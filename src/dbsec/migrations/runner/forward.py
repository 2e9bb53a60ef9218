"""After a contract there is no way back, only forward: what went, where it can come from, and the expand to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dbsec.migrations.runner.dropping import LOSES_ROWS
from dbsec.migrations.runner.ledger import Dropped, Entry

# What others rest on comes first: a trigger needs its function, which needs the column.
_FIRST = (
    *("schema", "type", "sequence", "table", "column", "type of column", "default", "null allowed", "rows"),
    *("constraint", "index", "view", "materialized view", "function", "procedure", "routine", "policy", "trigger"),
)
_ORDER = {what: place for place, what in enumerate(_FIRST)}


@dataclass(frozen=True, slots=True)
class RollForward:
    """The plan in words and in SQL. ``next_number`` is that of the file to write."""

    entry: Entry
    dropped: tuple[Dropped, ...]
    next_number: int

    @property
    def loses(self) -> list[Dropped]:
        """What took values with it."""
        return [one for one in self.dropped if one.what in LOSES_ROWS]

    def steps(self) -> list[str]:
        """Say what to do, in order."""
        number = self.next_number
        steps = [f"write {number:03}_expand_restore_{self.entry.name}.sql, phase expand, with the SQL below"]
        if self.loses:
            names = ", ".join(f"{one.what} {one.name}" for one in self.loses)
            at = f"{self.entry.started_at:%Y-%m-%d %H:%M:%S%z}"
            lsn = f", recovery_target_lsn = '{self.entry.started_lsn}' (exclusive)" if self.entry.started_lsn else ""
            steps += [
                f"restore a base backup into another server, up to before {at}{lsn}: it has {names}",
                "copy the keys and the values from there into a table of its own here (COPY TO, COPY FROM)",
                f"write {number + 1:03}_backfill_restore_{self.entry.name}.toml that fills them from it, and verify it",
                "rows that were written since have no old value: decide what they get, in 'set' of that file",
            ]
        return [*steps, "deploy the release that uses it once these are applied; contract again when all of it is sure"]

    def sql(self) -> str:
        """Write the expand migration, as far as the catalog knew what went."""
        lines = ["-- dbsec: phase expand", f"-- puts back what {self.entry.label} took away"]
        for one in sorted(self.dropped, key=lambda one: _ORDER.get(one.what, len(_ORDER))):
            lines.append(one.definition or f"-- {one.what} {one.name}: see the schema in version control")
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.entry.number,
            "name": self.entry.name,
            "applied_at": self.entry.finished_at,
            "started_lsn": self.entry.started_lsn,
            "dropped": [{"what": one.what, "name": one.name, "definition": one.definition} for one in self.dropped],
            "steps": self.steps(),
            "sql": self.sql(),
        }


def plan(entry: Entry, dropped: Sequence[Dropped], numbers: Sequence[int]) -> RollForward:
    """Plan the way forward after a contract; ``numbers`` are those of the folder."""
    return RollForward(entry, tuple(dropped), max([*numbers, entry.number]) + 1)
