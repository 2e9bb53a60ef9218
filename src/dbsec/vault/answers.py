"""What is read of an answer: a part that is missing means that somebody else answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from dbsec.vault.errors import VaultUnavailable

Body: TypeAlias = Mapping[str, Any]


def part(answer: Body, *names: str) -> Any:
    """Return what stands below these names. Errors: ``VaultUnavailable`` where it is not there."""
    found: Any = answer
    for name in names:
        if not isinstance(found, Mapping) or name not in found:
            raise VaultUnavailable(f"an answer has no '{'.'.join(names)}'", hint="does a proxy answer for the server?")
        found = found[name]
    return found
