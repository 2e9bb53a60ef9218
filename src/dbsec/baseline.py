"""A baseline: the findings that were there when a check was introduced, so that only new ones fail a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbsec import files
from dbsec.errors import ConfigError, NewerFormat
from dbsec.findings import Finding

MAGIC = "dbsec-baseline"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Compared:
    """``new``: not in the baseline. ``known``: in it. ``gone``: its entries that no longer occur, as they were told."""

    new: list[Finding]
    known: list[Finding]
    gone: list[str]


def write(path: Path, findings: Iterable[Finding]) -> int:
    """Write the keys of findings, sorted, with what a reader of a diff wants to see; returns their number.

    Shape: ``{"magic", "version", "findings": [{"key", "code", "name", "object", "file"}]}``; a key that occurs twice
    stands there twice.
    """
    entries = [_entry(finding) for finding in findings]
    entries.sort(key=lambda entry: (entry["file"], entry["code"], entry["object"], entry["key"]))
    body = {"magic": MAGIC, "version": VERSION, "findings": entries}
    files.write_atomic(path, json.dumps(body, indent=1, ensure_ascii=False) + "\n", mode=0o644)
    return len(entries)


def compare(path: Path, findings: Iterable[Finding]) -> Compared:
    """Part findings into new and known ones. Errors: ``ConfigError``, ``NewerFormat``."""
    entries = _read(path)
    left = Counter(entry["key"] for entry in entries)
    new, known = [], []
    for finding in findings:
        if left[finding.key] > 0:
            left[finding.key] -= 1
            known.append(finding)
        else:
            new.append(finding)
    return Compared(new, known, [_told(entry) for entry in entries if _take(left, entry["key"])])


def _take(left: Counter[str], key: str) -> bool:
    left[key] -= 1
    return left[key] >= 0


def _entry(finding: Finding) -> dict[str, str]:
    file = str(finding.where.get("file", ""))
    return {"key": finding.key, "code": finding.code, "name": finding.name, "object": finding.target, "file": file}


def _told(entry: dict[str, str]) -> str:
    return f"{entry.get('file', '')}: {entry.get('code', '')} {entry.get('object', '')} ({entry['key']})"


def _read(path: Path) -> list[dict[str, str]]:
    try:
        body: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"cannot read '{path}': {exc.strerror}", hint="--write-baseline makes one") from exc
    except ValueError as exc:
        raise ConfigError(f"'{path}' is no baseline: {exc}", hint="--write-baseline makes one") from exc
    if not isinstance(body, dict) or body.get("magic") != MAGIC:
        raise ConfigError(f"'{path}' is no baseline", hint="--write-baseline makes one")
    if isinstance(body.get("version"), int) and body["version"] > VERSION:
        raise NewerFormat(f"'{path}'", found=body["version"], known=VERSION)
    entries = body.get("findings")
    if not isinstance(entries, list) or not all(isinstance(e, dict) and isinstance(e.get("key"), str) for e in entries):
        raise ConfigError(f"'{path}' is damaged: its findings are no list of keys", hint="--write-baseline makes one")
    return entries
