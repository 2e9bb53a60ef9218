"""One finding for lint, probe, audit, roles and tenants."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

from dbsec import canonical


class Severity(StrEnum):
    """Whether a finding fails the run."""

    ERROR = "error"
    WARNING = "warning"


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
        """Stable across runs and machines: 16 hex digits of code and target."""
        return hashlib.sha256(canonical.length_prefixed((self.code.encode(), self.target.encode()))).hexdigest()[:16]

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
