"""goose and sql-migrate: the part after ``-- +goose Up``, in a transaction unless the file says otherwise."""

from __future__ import annotations

import re

from dbsec.migrations.reading.tool import Prepared, Tool, only
from dbsec.migrations.script import Wrap

_MARK = re.compile(
    r"^[ \t]*--[ \t]*\+(?:goose|migrate)[ \t]+(?P<way>up|down)\b(?P<rest>[^\r\n]*)", re.IGNORECASE | re.MULTILINE
)
_ALONE = re.compile(
    r"^[ \t]*--[ \t]*\+(?:goose[ \t]+no[ \t]+transaction|migrate[ \t]+up[ \t]+notransaction)\b",
    re.IGNORECASE | re.MULTILINE,
)


def _prepare(text: str, _: str) -> Prepared:
    up = only(text, _MARK, lambda mark: mark["way"].lower() == "up")
    return Prepared(up, Wrap.NONE if _ALONE.search(text) else Wrap.FILE)


TOOL = Tool(
    "goose",
    _prepare,
    marked=re.compile(r"^[ \t]*--[ \t]*\+(?:goose|migrate)[ \t]+up\b", re.IGNORECASE | re.MULTILINE),
)
