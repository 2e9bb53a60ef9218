"""One finding for lint, probe, audit, roles and tenants."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from dbsec import canonical

_PLACE = ("file", "statement")  # the members of ``where`` that tell a finding from its like


class Severity(StrEnum):
    """Whether a finding fails the run."""

    ERROR = "error"
    WARNING = "warning"


@lru_cache(maxsize=64)
def _spaced(part: str) -> bytes:
    """Put one blank for each run of white space; findings on one statement follow each other."""
    return " ".join(part.split()).encode()


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with ``target``: ``message`` says what and where, ``fix`` is the exact statement or command."""

    code: str
    name: str
    severity: Severity
    target: str
    message: str
    fix: str = ""
    refs: tuple[str, ...] = ()
    where: dict[str, str | int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Stable across runs and machines: 16 hex digits of code, target, and the file and statement it stands in.

        Lines and white space do not count: what only moves keeps its key.
        """
        parts = [self.code, self.target, *(f"{name}={self.where[name]}" for name in _PLACE if name in self.where)]
        return hashlib.sha256(canonical.length_prefixed(map(_spaced, parts))).hexdigest()[:16]

    def to_json(self) -> dict[str, object]:
        """Shape: the fields by name, ``key`` and the members of ``where`` beside them."""
        return {
            "key": self.key,
            "code": self.code,
            "name": self.name,
            "severity": str(self.severity),
            "object": self.target,
            "message": self.message,
            "fix": self.fix,
            "refs": list(self.refs),
            **self.where,
        }
