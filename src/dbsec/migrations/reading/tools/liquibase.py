"""Liquibase's formatted SQL: changesets, each in a transaction of its own unless it says otherwise."""

from __future__ import annotations

import re

from dbsec.migrations.reading.tool import Prepared, Tool, only
from dbsec.migrations.script import Wrap

_CHANGESET = re.compile(r"^[ \t]*--[ \t]*changeset[ \t]+(?P<rest>[^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_ALONE = re.compile(r"\brunInTransaction\s*:\s*\"?false\b", re.IGNORECASE)
_DBMS = re.compile(r"\bdbms\s*:\s*(?P<names>\"[^\"]*\"|\S+)", re.IGNORECASE)
_DELIMITER = re.compile(r"\bendDelimiter\s*:\s*(?P<sign>\"[^\"]*\"|\S+)", re.IGNORECASE)


def _prepare(text: str, _: str) -> Prepared:
    found = list(_CHANGESET.finditer(text))
    ours = {mark.start(): _for_postgresql(mark["rest"]) for mark in found}
    sections = tuple(
        (text.count("\n", 0, mark.start()) + 1, Wrap.NONE if _ALONE.search(mark["rest"]) else Wrap.FILE)
        for mark in found
    )
    wraps = {wrap for _, wrap in sections}
    parts = only(text, _CHANGESET, lambda mark: ours[mark.start()])
    return Prepared(_delimited(parts), Wrap.NONE if wraps == {Wrap.NONE} else Wrap.FILE, sections)


def _for_postgresql(rest: str) -> bool:
    found = _DBMS.search(rest)
    if found is None:
        return True
    names = [name.strip().lower() for name in found["names"].strip('"').split(",")]
    if "!postgresql" in names:
        return False
    return "postgresql" in names or "all" in names or all(name.startswith("!") for name in names)


def _delimited(text: str) -> str:
    """Put a semicolon where a changeset has a delimiter of its own at the end of a line."""
    marks = [*_CHANGESET.finditer(text)]
    ends = [*(mark.start() for mark in marks), len(text)][1:]
    for mark, end in zip(marks, ends, strict=True):
        if found := _DELIMITER.search(mark["rest"]):
            sign = found["sign"].strip('"').replace("\\n", "").strip()
            body = text[mark.end() : end]
            if sign and sign != ";":
                last = re.compile(re.escape(sign) + r"(?=[ \t\r]*$)", re.MULTILINE | re.IGNORECASE)
                text = text[: mark.end()] + last.sub(";" + " " * (len(sign) - 1), body) + text[end:]
    return text


TOOL = Tool(
    "liquibase",
    _prepare,
    marked=re.compile(r"\A\ufeff?\s*--[ \t]*liquibase[ \t]+formatted[ \t]+sql\b", re.IGNORECASE),
)
