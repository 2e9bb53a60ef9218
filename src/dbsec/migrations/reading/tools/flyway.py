"""Flyway: V2__name.sql before V10__name.sql, R__name.sql after all, each in a transaction."""

from __future__ import annotations

import re
from pathlib import Path

from dbsec.migrations.reading import lexer
from dbsec.migrations.reading.tool import Order, Prepared, Tool, natural
from dbsec.migrations.script import Wrap

_NAME = re.compile(r"(?:^|/)(?P<kind>[VR])(?P<version>\d[\d._]*?)?__[^/]*\.sql\Z")
# What Flyway itself takes out of the transaction, where a file has nothing else.
_ALONE = re.compile(
    r"(?:create|drop)\s+(?:database|tablespace|subscription)\b|alter\s+system\b|vacuum\b|discard\s+all\b|reindex\b"
    r"|(?:create\s+(?:unique\s+)?|drop\s+)index\s+concurrently\b",
    re.IGNORECASE,
)
_NO_TRANSACTION = re.compile(r"^\s*executeInTransaction\s*=\s*false\b", re.IGNORECASE | re.MULTILINE)


def _order(path: str) -> Order:
    found = _NAME.search(path)
    if found is None or found["kind"] == "R":
        return (0 if found is None else 1), (), natural(path.rpartition("/")[2])
    return 0, tuple(int(part) for part in re.split(r"[._]+", found["version"] or "") if part), natural(path)


def _prepare(text: str, path: str) -> Prepared:
    alone = [bool(_ALONE.match(text, start, end)) for start, end in lexer.cut(text)] if _ALONE.search(text) else []
    free = (bool(alone) and all(alone)) or _told_so(path)
    return Prepared(text, Wrap.NONE if free else Wrap.FILE)


def _told_so(path: str) -> bool:
    """Look into the file's own configuration, which Flyway reads beside it."""
    try:
        return bool(_NO_TRANSACTION.search(Path(f"{path}.conf").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


TOOL = Tool(
    "flyway",
    _prepare,
    named=_NAME,
    skips=re.compile(r"(?:^|/)[UB]\d[\d._]*__[^/]*\.sql\Z"),
    order=_order,
)
