"""What a migration tool does with a file: which it runs, in which order, which parts, in which transactions."""

from __future__ import annotations

import re
from collections.abc import Callable

from msgspec import Struct

from dbsec.migrations.reading.lexer import blanked
from dbsec.migrations.script import Wrap

Order = tuple[int, tuple[int, ...], tuple[str | int, ...]]
"""A place among the files of a folder: the stage, the version, the name."""


class Prepared(Struct, frozen=True):
    """What of a file runs: ``text`` has the length and the lines of the file; ``sections`` as in ``Script``."""

    text: str
    wrap: Wrap
    sections: tuple[tuple[int, Wrap], ...] = ()


def natural(path: str) -> tuple[str | int, ...]:
    """Make a key by which ``2_b`` sorts before ``10_a``."""
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path))


def by_name(path: str) -> Order:
    """Place a file by its name, numbers in it by their value."""
    return 0, (), natural(path)


class Tool(Struct, frozen=True):
    """A tool is known by the path of a file in its folder (``named``) or by a comment in it (``marked``).

    ``skips``: files of the folder that an upgrade does not run. ``prepare`` gets the text and the path.
    """

    name: str
    prepare: Callable[[str, str], Prepared]
    named: re.Pattern[str] | None = None
    marked: re.Pattern[str] | None = None
    skips: re.Pattern[str] | None = None
    order: Callable[[str], Order] = by_name


def only(text: str, marks: re.Pattern[str], runs: Callable[[re.Match[str]], bool]) -> str:
    """Blank the parts of a text that do not run: each begins at a mark, and ``runs`` tells of it.

    What stands before the first mark is kept: it is comments.
    """
    kept, start, running = [], 0, True
    for mark in marks.finditer(text):
        part = text[start : mark.start()]
        kept.append(part if running else blanked(part))
        start, running = mark.start(), runs(mark)
    kept.append(text[start:] if running else blanked(text[start:]))
    return "".join(kept)
