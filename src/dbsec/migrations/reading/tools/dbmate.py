"""dbmate: the part after ``-- migrate:up``, in a transaction unless that line says ``transaction:false``."""

from __future__ import annotations

import re

from dbsec.migrations.reading.tool import Prepared, Tool, only
from dbsec.migrations.script import Wrap

_MARK = re.compile(r"^[ \t]*--[ \t]*migrate:(?P<way>up|down)\b(?P<rest>[^\r\n]*)", re.MULTILINE)
_ALONE = re.compile(r"\btransaction\s*:\s*false\b", re.IGNORECASE)


def _prepare(text: str, _: str) -> Prepared:
    alone = any(_ALONE.search(mark["rest"]) for mark in _MARK.finditer(text) if mark["way"] == "up")
    return Prepared(only(text, _MARK, lambda mark: mark["way"] == "up"), Wrap.NONE if alone else Wrap.FILE)


TOOL = Tool("dbmate", _prepare, marked=re.compile(r"^[ \t]*--[ \t]*migrate:up\b", re.MULTILINE))
