"""Names of objects as a migration writes them: with a schema or without."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*\Z")


class Name(NamedTuple):
    """``schema`` is None where the search path decides."""

    schema: str | None
    name: str

    def __str__(self) -> str:
        return quoted(self.name) if self.schema is None else f"{quoted(self.schema)}.{quoted(self.name)}"


@lru_cache(maxsize=4096)
def quoted(identifier: str) -> str:
    """Quote an identifier where SQL asks for it; reserved words are quoted by the caller's statement."""
    return identifier if _PLAIN.match(identifier) else '"' + identifier.replace('"', '""') + '"'
