"""Alembic's revision files, read without running them: which there are, and which comes after which."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dbsec.migrations.reading.tool import natural
from dbsec.migrations.script import Unread

_REVISION = re.compile(r"^(?:revision|down_revision)\b\s*(?::[^=\n]*)?=", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Revision:
    """A file of Alembic; ``after``: the revisions that it names as before it."""

    path: str
    name: str
    after: tuple[str, ...]
    text: str = field(repr=False)


def revisions_in(files: Sequence[str], *, asked: bool) -> tuple[list[Revision], list[Unread]]:
    """Read the files that are revisions; others are told where they were ``asked`` for by name."""
    found: list[Revision] = []
    unread: list[Unread] = []
    for path in sorted(dict.fromkeys(files), key=natural):
        try:
            with tokenize.open(path) as stream:
                text = stream.read()
        except PermissionError:
            unread.append(Unread(path, 0, "no permission to read it", hint=f"ls -l {path}"))
            continue
        except (OSError, SyntaxError, ValueError) as exc:
            unread.append(Unread(path, 0, f"cannot be read: {exc}"))
            continue
        if len(_REVISION.findall(text)) < 2:
            if asked:
                unread.append(Unread(path, 0, "is no revision of Alembic: it has no revision and down_revision"))
            continue
        one = _revision(path, text)
        if isinstance(one, Unread):
            unread.append(one)
        elif one.name in {other.name for other in found}:
            unread.append(Unread(path, 0, f"a second revision '{one.name}'"))
        else:
            found.append(one)
    return found, unread


def _revision(path: str, text: str) -> Revision | Unread:
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError) as exc:
        return Unread(path, getattr(exc, "lineno", 0) or 0, f"is no Python: {exc.args[0] if exc.args else exc}")
    values: dict[str, Any] = {}
    for statement in body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and target.id in ("revision", "down_revision", "depends_on"):
                values[target.id] = _constant(getattr(statement, "value", None))
    name = values.get("revision")
    if not isinstance(name, str):
        return Unread(path, 0, "its revision is no plain text")
    after = [one for key in ("down_revision", "depends_on") for one in _several(values.get(key))]
    return Revision(path, name, tuple(after), text)


def _constant(node: ast.AST | None) -> Any:
    try:
        return ast.literal_eval(node) if isinstance(node, ast.expr) else None
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return None


def _several(value: Any) -> list[str]:
    values = value if isinstance(value, tuple | list | set) else [value]
    return [one for one in values if isinstance(one, str)]


def in_order(revisions: Sequence[Revision]) -> tuple[list[Revision], list[Revision]]:
    """Order revisions after those that they name; what goes round in a circle comes back apart.

    A name that is not among them is of a revision that is deployed.
    """
    left = {one.name: one for one in revisions}
    names = tuple(left)
    before = {one.name: {full for name in one.after for full in _full(name, names)} for one in revisions}
    ordered: list[Revision] = []
    while ready := next((one for one in left.values() if not before[one.name] & left.keys()), None):
        while ready is not None:  # along the branch, as far as it goes
            ordered.append(left.pop(ready.name))
            done = ready.name
            ready = next(
                (one for one in left.values() if done in before[one.name] and not before[one.name] & left.keys()), None
            )
    return ordered, list(left.values())


def _full(name: str, names: Sequence[str]) -> list[str]:
    """Find the revision that a name means, which may be its beginning."""
    return [name] if name in names else [one for one in names if one.startswith(name)][:1]
