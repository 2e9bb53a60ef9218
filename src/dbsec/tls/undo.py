"""A note beside a server's files of how they were, while they are being changed: what a kill -9 leaves is put back."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from dbsec.errors import UsageError
from dbsec.tls.data_folder import DataFolder


@dataclass(frozen=True, slots=True)
class Before:
    """Files by name (None: not there) and own settings (None: not set)."""

    files: Mapping[str, bytes | None] = field(repr=False)
    settings: Mapping[str, str | None] = field(default_factory=dict)


def keep(folder: DataFolder, name: str, before: Before) -> None:
    """Write the note (0600), before the first change."""
    files = {one: None if data is None else base64.b64encode(data).decode() for one, data in before.files.items()}
    folder.write(name, json.dumps({"files": files, "settings": dict(before.settings)}).encode(), mode=0o600)


def kept(folder: DataFolder, name: str) -> Before | None:
    """Read the note, None where there is none. Errors: ``UsageError`` where it cannot be read."""
    text = folder.read(name)
    if text is None:
        return None
    try:
        noted = json.loads(text)
        files = {str(n): None if t is None else base64.b64decode(t) for n, t in noted["files"].items()}
        return Before(files, {str(n): v for n, v in noted["settings"].items()})
    except (ValueError, KeyError, AttributeError) as exc:
        hint = "look at the files of the server and at ALTER SYSTEM, then remove it"
        raise UsageError(f"'{folder.path / name}' cannot be read", hint=hint) from exc


def drop(folder: DataFolder, name: str) -> None:
    """Remove the note: the change is whole, or undone."""
    folder.restore(name, None)
