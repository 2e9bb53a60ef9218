"""PostgreSQL's manifest of a base backup, written for files that were read by us.

It names no checksums of files: what they hold is proven by the seals of their objects, and ``pg_verifybackup`` finds
what is missing, too many or of another size. Source: PostgreSQL, "Backup Manifest Format".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """``path`` is relative to the data folder, through ``pg_tblspc`` for tablespaces; ``mtime`` in seconds."""

    path: str
    size: int
    mtime: int


def manifest_text(
    files: Iterable[ManifestFile], *, major: int, system: int, timeline: int, start: str, stop: str
) -> bytes:
    """Return ``backup_manifest``; ``start`` and ``stop`` are LSNs."""
    head = [f'{{ "PostgreSQL-Backup-Manifest-Version": {2 if major >= 17 else 1},']
    if major >= 17:
        head.append(f'"System-Identifier": {system},')
    wal = json.dumps({"Timeline": timeline, "Start-LSN": start, "End-LSN": stop})
    listed = ",\n".join(_line(one) for one in files)
    body = "\n".join([*head, '"Files": [', listed, "],", f'"WAL-Ranges": [\n{wal}\n],', ""]).encode()
    return body + f'"Manifest-Checksum": "{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


def _line(file: ManifestFile) -> str:
    changed = datetime.fromtimestamp(file.mtime, UTC).strftime("%Y-%m-%d %H:%M:%S GMT")
    return json.dumps({"Path": file.path, "Size": file.size, "Last-Modified": changed}, ensure_ascii=False)
