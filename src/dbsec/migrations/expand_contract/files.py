"""The steps as files of a folder: numbered on from its highest, never over a file that is there."""

from __future__ import annotations

import re
from pathlib import Path

from dbsec.errors import UsageError
from dbsec.migrations.expand_contract.script import Change

_NUMBERED = re.compile(r"(\d+)_")
_WORD = re.compile(r"[^a-z0-9_]+")
_DIGITS = 3


def named(change: Change, folder: Path) -> dict[Path, str]:
    """Name the files of a change. Errors: ``UsageError`` for a folder that is not there."""
    if not folder.is_dir():
        raise UsageError(f"there is no folder '{folder}'", hint=f"mkdir -p {folder}")
    numbers = [found[1] for path in folder.iterdir() if (found := _NUMBERED.match(path.name))]
    first = max(map(int, numbers), default=0) + 1
    digits = max([_DIGITS, *(len(number) for number in numbers)])
    slug = _WORD.sub("_", change.slug.lower()).strip("_") or "change"
    parts = [
        (f"expand_{slug}", "sql", change.expand, change.expand_down),
        (f"backfill_{slug}", "toml", change.backfill, change.backfill_down),
        *([(f"contract_before_{slug}", "sql", *change.before)] if change.before else []),
        (f"contract_{slug}", "sql", change.contract, change.contract_down),
    ]
    made: dict[Path, str] = {}
    for number, (name, ending, text, down) in enumerate(parts, first):
        stem = folder / f"{number:0{digits}}_{name}"
        made[Path(f"{stem}.{ending}")] = text
        made[Path(f"{stem}.down.sql")] = down
    return made


def write(files: dict[Path, str]) -> None:
    """Write them all or none. Errors: ``UsageError`` where one is there already, or cannot be written."""
    done: list[Path] = []
    try:
        for path, text in files.items():
            with path.open("x", encoding="utf-8") as stream:
                done.append(path)
                stream.write(text)
    except OSError as exc:
        for path in done:
            path.unlink()
        raise UsageError(f"cannot write '{exc.filename}': {exc.strerror}", hint="ls -l the folder") from exc
