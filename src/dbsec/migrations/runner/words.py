"""A statement in words that a log may hold."""

from __future__ import annotations

import re

from dbsec.migrations.statement import Statement

_BEFORE_VALUES = re.compile(r"['$]")


def shown(statement: Statement) -> str:
    """Say a statement in its first words, without a value."""
    return " ".join(_BEFORE_VALUES.split(statement.text, maxsplit=1)[0].split())[:80]
