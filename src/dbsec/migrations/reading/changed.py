"""Which files git has as they were at a revision: they are deployed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dbsec import process
from dbsec.errors import ProgramError, ProgramMissing, UsageError


def unchanged_since(revision: str, paths: Iterable[str]) -> frozenset[str]:
    """Return those of the paths that are in git's ``revision`` under the same name with the same content.

    Errors: ``UsageError`` where a path is in no repository, or the revision is not known.
    """
    tops: dict[Path, Path] = {}
    same: dict[Path, frozenset[Path]] = {}
    found = set()
    for path in paths:
        real = Path(path).resolve()
        if real.parent not in tops:
            tops[real.parent] = next((top for top in same if real.is_relative_to(top)), None) or _top_of(real.parent)
        top = tops[real.parent]
        if top not in same:
            same[top] = _same(revision, top)
        if real in same[top]:
            found.add(path)
    return frozenset(found)


def _top_of(folder: Path) -> Path:
    try:
        return Path(_git(folder, "rev-parse", "--show-toplevel").removesuffix("\n")).resolve()
    except ProgramMissing:
        raise
    except ProgramError as exc:
        raise UsageError(f"'{folder}' is in no git repository that can be read: {exc.tail}", hint="git init") from exc


def _same(revision: str, top: Path) -> frozenset[Path]:
    try:
        commit = _git(top, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}").strip()
    except ProgramMissing:
        raise
    except ProgramError as exc:
        raise UsageError(
            f"git does not know the revision '{revision}' in '{top}'",
            hint="git fetch --unshallow, or git log --oneline",
        ) from exc
    then = _names(_git(top, "ls-tree", "-r", "-z", "--name-only", "--full-tree", commit))
    differing = _names(_git(top, "diff", "-z", "--name-only", "--no-renames", "--no-ext-diff", commit, "--"))
    return frozenset(top / name for name in then - differing)


def _names(output: str) -> set[str]:
    return set(output.split("\0")) - {""}


def _git(folder: Path, *arguments: str) -> str:
    hint = "apt-get install git"
    return process.run(["git", *arguments], cwd=folder, hint=hint)
