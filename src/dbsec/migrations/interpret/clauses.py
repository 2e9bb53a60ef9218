"""The source text of each clause of an ALTER TABLE: what stands between its commas."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dbsec.migrations.reading import lexer

_NAME = r'(?:"(?:[^"]|"")*"|[\w$]+)'
_HEAD = re.compile(
    r"\s*ALTER\s+(?:FOREIGN\s+TABLE|MATERIALIZED\s+VIEW|[A-Z]+)\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?"
    rf"\(?\s*{_NAME}(?:\s*\.\s*{_NAME})*\s*\)?\s*\*?\s*",
    re.IGNORECASE,
)
_SIGN = re.compile(r"[\[\],]")


def clauses(text: str, count: int) -> tuple[str, ...]:
    """Split ``ALTER TABLE t …`` into its ``count`` clauses; the whole text for each where the split does not fit."""
    head = _HEAD.match(text) or _HEAD.match(_without_comments(text))
    body = text[head.end() :].rstrip().removesuffix(";").rstrip() if head else ""
    if not body:
        return (text,) * count
    if count == 1:
        return (body,)
    found = tuple(part.strip() for part in _split(body))
    return found if len(found) == count else (text,) * count


def _without_comments(text: str) -> str:
    """Blank the comments, so that every other sign keeps its place."""
    for piece in lexer.pieces(text):
        if piece.part in (lexer.Part.LINE_COMMENT, lexer.Part.BLOCK_COMMENT):
            text = text[: piece.start] + " " * (piece.end - piece.start) + text[piece.end :]
    return text


def _split(body: str) -> Iterator[str]:
    """Cut at commas outside parentheses, brackets, quotes and comments."""
    start = at = depth = 0
    for piece in (*lexer.pieces(body), None):
        end = piece.start if piece else len(body)
        for found in _SIGN.finditer(body, at, end):
            sign = found[0]
            depth += (sign == "[") - (sign == "]")
            if sign == "," and depth == 0:
                yield body[start : found.start()]
                start = found.end()
        if piece:
            depth += (piece.part is lexer.Part.OPEN) - (piece.part is lexer.Part.CLOSE)
            at = piece.end
    yield body[start:]
