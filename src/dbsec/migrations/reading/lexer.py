"""Where SQL text has comments, quotes and semicolons: just enough to cut it, for text that no parser takes whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple


class Part(StrEnum):
    """What a piece of SQL text is; plain words and blanks between the pieces are not told."""

    LINE_COMMENT = "line comment"
    BLOCK_COMMENT = "block comment"
    QUOTED = "quoted"  # '…', E'…', "…", $tag$…$tag$
    SEMICOLON = "semicolon"
    OPEN = "open"
    CLOSE = "close"
    ATOMIC = "atomic"
    CASE = "case"
    END = "end"
    BACKSLASH = "backslash"


class Piece(NamedTuple):
    """``start`` and ``end`` are indexes of the string; ``ended`` is False where the text stops inside it."""

    part: Part
    start: int
    end: int
    ended: bool = True


_PIECE = re.compile(
    r"""
      (?P<line>--[^\n]*)
    | (?P<block>/\*)
    | (?P<escaped>\b[eE]'(?:[^'\\]|\\.|'')*+(?P<escaped_end>')?)
    | (?P<quoted>'[^']*(?P<quoted_end>')?)
    | (?P<name>"[^"]*(?P<name_end>")?)
    | (?P<dollar>(?<![\w$])\$(?:[^\W\d]\w*)?\$)
    | (?P<semicolon>;)
    | (?P<open>\()
    | (?P<close>\))
    | (?P<backslash>\\)
    | \b(?: (?P<atomic>begin\s+atomic) | (?P<case>case) | (?P<end>end) )\b
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_SIMPLE = {
    "line": Part.LINE_COMMENT,
    "semicolon": Part.SEMICOLON,
    "open": Part.OPEN,
    "close": Part.CLOSE,
    "backslash": Part.BACKSLASH,
    "atomic": Part.ATOMIC,
    "case": Part.CASE,
    "end": Part.END,
}
_VISIBLE = re.compile(r"[^\r\n]")
_BLANK = "\ufeff \t\r\n\f\v"


def pieces(text: str, start: int = 0) -> Iterator[Piece]:
    """Walk the text; a doubled quote ends one piece and begins the next, which cuts nothing wrongly."""
    search = _PIECE.search
    while found := search(text, start):
        kind = str(found.lastgroup).removesuffix("_end")
        begin, end, ended = found.start(), found.end(), True
        part = _SIMPLE.get(kind, Part.QUOTED)
        if kind == "block":
            part = Part.BLOCK_COMMENT
            end, ended = _comment_end(text, end)
        elif kind == "dollar":
            close = text.find(found["dollar"], end)
            ended = close >= 0
            end = close + end - begin if ended else len(text)
        elif part is Part.QUOTED:
            ended = found[kind + "_end"] is not None
        yield Piece(part, begin, end, ended)
        start = end


def _comment_end(text: str, start: int) -> tuple[int, bool]:
    """Find the end of a block comment, which may hold others."""
    depth = 1
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end(), True
    return len(text), False


def is_comment(piece: Piece) -> bool:
    """Tell whether the server skips the piece; a comment without end is an error to it."""
    return piece.ended and piece.part in (Part.LINE_COMMENT, Part.BLOCK_COMMENT)


def cut(text: str) -> list[tuple[int, int]]:
    """Cut a script into statements: (start, end) from the first word to before the semicolon, as psql would.

    Semicolons in parentheses (CREATE RULE) and in BEGIN ATOMIC … END do not cut.
    """
    found: list[tuple[int, int]] = []
    first, depth, atomic, begin = -1, 0, 0, 0  # first: where the statement's first word is, -1 before it
    for piece in pieces(text):
        part = piece.part
        if first < 0 and begin < piece.start:
            first = _first_word(text, begin, piece.start)
        begin = piece.end
        if part is Part.SEMICOLON and depth <= 0 and not atomic:
            if first >= 0:
                found.append((first, piece.start))
            first, depth = -1, 0
        elif not is_comment(piece):
            first = piece.start if first < 0 and part is not Part.SEMICOLON else first
            depth += (part is Part.OPEN) - (part is Part.CLOSE)
            if part is Part.ATOMIC or (atomic and part is Part.CASE):
                atomic += 1
            elif atomic and part is Part.END:
                atomic -= 1
    first = _first_word(text, begin, len(text)) if first < 0 else first
    return [*found, (first, first + last_word(text[first:]))] if first >= 0 else found


def _first_word(text: str, start: int, end: int) -> int:
    plain = text[start:end].lstrip(_BLANK)
    return end - len(plain) if plain else -1


def last_word(text: str) -> int:
    """Tell where the text ends, comments and blanks after it left out."""
    last = begin = 0
    for piece in pieces(text):
        if plain := text[begin : piece.start].rstrip(_BLANK):
            last = begin + len(plain)
        if not is_comment(piece):
            last = piece.end
        begin = piece.end
    plain = text[begin:].rstrip(_BLANK)
    return begin + len(plain) if plain else last


def blanked(text: str) -> str:
    """Put a blank for every character but the ends of lines, so that every other one keeps its place."""
    return _VISIBLE.sub(" ", text)
