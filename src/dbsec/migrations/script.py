"""One migration as PostgreSQL gets it: its SQL, where each line came from, and who wraps it in a transaction."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Wrap(StrEnum):
    """Who opens a transaction around the statements of a script."""

    NONE = "none"  # psql: each statement commits by itself, unless the script says BEGIN
    FILE = "file"  # Alembic, Flyway, dbmate, goose, Prisma: the whole script in one transaction


class Phase(StrEnum):
    """The step of expand -> backfill -> contract that ``-- dbsec: phase …`` names."""

    EXPAND = "expand"
    BACKFILL = "backfill"
    CONTRACT = "contract"


class Script(Struct, frozen=True):
    """``text`` is SQL only: what is no SQL (psql's meta-commands, sections that do not run) is blanked, lines kept.

    ``lines`` maps line i (0 is the first) of ``text`` to a line of the file where the two differ (Alembic); empty where
    they are the same. ``deployed``: runs before the release that is judged; it shapes the schema and gets no finding.
    ``sections``: where a file has several transactions of its tool (changesets of Liquibase), the line of ``text`` at
    which each begins, and its wrap. ``comments``: (line of the file, text without its marks) of each comment that has
    ``dbsec:`` or ``squawk-ignore`` in it.
    """

    path: str
    text: str
    tool: str = "sql"
    wrap: Wrap = Wrap.NONE
    phase: Phase | None = None
    deployed: bool = False
    lines: tuple[int, ...] = ()
    comments: tuple[tuple[int, str], ...] = ()
    sections: tuple[tuple[int, Wrap], ...] = ()

    def line_in_file(self, line: int) -> int:
        """Tell the line of the file for a line (1 is the first) of ``text``."""
        return self.lines[line - 1] if 0 < line <= len(self.lines) else line


class Unread(Struct, frozen=True):
    """A path, or a statement of it, that could not be read: the run still goes on, and ends with exit code 3."""

    path: str
    line: int
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {self.reason}"
