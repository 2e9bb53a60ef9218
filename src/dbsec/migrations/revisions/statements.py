"""What Alembic sends, one statement at a time, as the runner classifies it."""

from __future__ import annotations

import copy
import re
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg

from dbsec.errors import UsageError
from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.interpret import operations_of
from dbsec.migrations.names import Name
from dbsec.migrations.operations import SetVariable
from dbsec.migrations.runner.bodies import Bodies
from dbsec.migrations.runner.classify import TIMEOUTS, Classified, Kind, bodies_of, classify
from dbsec.migrations.schema.catalog import from_catalog
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script, Wrap

# what psycopg makes of a statement's text: a parameter, or a percent sign
_PERCENT = re.compile(r"%%|%(?:\(\w+\))?[sbt]")


@dataclass
class Statements:
    """Reads the statements of one revision against the schema as it stands, which each of them changes.

    ``path``: the revision's file. ``settings``: the timeouts that the revision has SET.
    """

    path: str
    schema: Schema
    bodies: Bodies
    major: int
    settings: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, path: str, raw: psycopg.Connection[Any]) -> Statements:
        """Read the schema and the functions of a database; ``raw`` is in no transaction."""
        made = cls(path, from_catalog(raw), bodies_of(raw), raw.info.server_version // 10000)
        raw.rollback()
        return made

    def read(self, text: str) -> list[Classified]:
        """Classify what one call sends; nothing where it is no SQL that we read, which the server then refuses."""
        plain = _PERCENT.sub(lambda found: "%" if found[0] == "%%" else "$1", text)
        line = _line_in(self.path)
        script = Script(self.path, plain, "alembic", Wrap.NONE, lines=(line,) * (plain.count("\n") + 1))
        try:
            found = classify([script], self.schema, major=self.major, bodies=self.bodies)
        except UsageError:
            return []
        found = [replace(one, settings={**self.settings, **one.settings}) for one in found]
        for one in found:
            self._remember(one)
        return found

    def foretold(self, script: Script | None) -> dict[Name, LockMode]:
        """Tell the locks of a revision's first transaction that others may wait for; none where it was not read."""
        wanted: dict[Name, LockMode] = {}
        if script is None:
            return wanted
        try:
            found = classify([script], copy.deepcopy(self.schema), major=self.major, bodies=self.bodies)
        except UsageError:
            return wanted
        for one in found:
            if one.kind in (Kind.TRANSACTION, Kind.CONCURRENT):
                break
            for name, mode in one.locks:
                if mode.blocks_writes:
                    wanted[name] = max(mode, wanted.get(name, mode))
        return wanted

    def _remember(self, one: Classified) -> None:
        if one.kind is not Kind.SESSION:
            return
        for operation in operations_of(one.statement):
            if isinstance(operation, SetVariable) and operation.name in TIMEOUTS:
                self.settings.pop(operation.name, None)
                if operation.value is not None:
                    self.settings[operation.name] = operation.value


def only_reads(parts: list[Classified]) -> bool:
    """Tell whether a call may give rows that the revision asks for: it is run again, never passed over."""
    return bool(parts) and all(one.statement.kind in ("SelectStmt", "VariableShowStmt") for one in parts)


def _line_in(path: str) -> int:
    """Find the line of the revision that is at work, so that what is told of a statement says where it stands."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != path:
        frame = frame.f_back  # type: ignore[assignment]
    return frame.f_lineno if frame is not None else 1
