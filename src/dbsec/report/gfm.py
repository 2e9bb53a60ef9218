"""GitHub-flavoured Markdown in which evidence is always text: no tag, no link, no cell or line that it did not get."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from dbsec.report.markup import shown

_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
# An underscore inside a word (pg_authid) is no emphasis in GFM, and stays readable.
_SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINE_START = re.compile(r"^(?:([#+=-])|(\d+)([.)])(?=\s|$))")


def text(value: object) -> str:
    """Write a value as one line of plain text, for a paragraph or a cell."""
    line = " ".join(shown(value).split())
    escaped = _SPECIAL.sub(lambda m: "\\" + m[0], line.translate(_ENTITIES)).replace("://", "&#58;//")
    return _LINE_START.sub(lambda m: rf"\{m[1]}" if m[1] else rf"{m[2]}\{m[3]}", escaped)


def table(columns: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Write a table; short rows are filled, long ones cut to the number of columns."""
    width = len(columns)
    body = [[*map(text, row), *[""] * width][:width] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [[text(c) for c in columns], ["---"] * width, *body])


def fence(content: object, language: str = "") -> str:
    """Write verbatim text; the fence is longer than any run of backticks inside."""
    body = "".join(c for c in str(content) if c in "\n\t" or c.isprintable())
    longest = max((len(run) for run in re.findall("`+", body)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{body}\n{marks}"
