"""What the comments of a migration say to dbsec: its phase, and what is kept for the suppressions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from dbsec.migrations.reading import lexer
from dbsec.migrations.reading.lexer import Part
from dbsec.migrations.script import Phase, Unread

Comments = tuple[tuple[int, str], ...]

MARKED = re.compile(r"dbsec:|squawk-ignore")
_PHASE = re.compile(r"dbsec:\s*phase\b\s*(?P<name>[^\s*]*)")


@lru_cache(maxsize=2)  # a release asks several times for one text, which may be rows of megabytes
def comments_of(text: str) -> Comments:
    """List the SQL comments that speak to dbsec or squawk, with their lines, without their marks."""
    if not MARKED.search(text):
        return ()
    found, line, at = [], 1, 0
    for piece in lexer.pieces(text):
        if piece.part not in (Part.LINE_COMMENT, Part.BLOCK_COMMENT):
            continue
        said = text[piece.start : piece.end]
        if MARKED.search(said):
            line += text.count("\n", at, piece.start)
            at = piece.start
            found.append((line, said.removeprefix("--").removeprefix("/*").removesuffix("*/").strip()))
    return tuple(found)


def phase_of(path: str, comments: Iterable[tuple[int, str]], unread: list[Unread]) -> Phase | None:
    """Read ``dbsec: phase …`` from the comments; one that is not known, or a second one, is told."""
    phase: Phase | None = None
    for line, said in comments:
        if not (found := _PHASE.search(said)):
            continue
        try:
            named = Phase(found["name"].lower())
        except ValueError:
            reason = f"phase '{found['name']}' is not expand, backfill or contract"
            unread.append(Unread(path, line, reason, hint="-- dbsec: phase expand"))
            continue
        if phase is not None and phase is not named:
            unread.append(Unread(path, line, f"a second phase, '{named}', after '{phase}'", hint="one file, one phase"))
        phase = phase or named
    return phase
