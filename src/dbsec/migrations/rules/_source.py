"""Edits of SQL text by PostgreSQL's own tokens, so that a fix keeps the user's expressions to the letter."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from msgspec import Struct

from dbsec.migrations.reading import libpg

_OPEN, _CLOSE, _SEMICOLON = "ASCII_40", "ASCII_41", "ASCII_59"
_COMMENTS = ("SQL_COMMENT", "C_COMMENT")
_BLANKS = " \t\n\r\f\v;"
_STARTS = {
    "CONSTRAINT",
    "NOT",
    "NOT_LA",
    "NULL_P",
    "CHECK",
    "UNIQUE",
    "PRIMARY",
    "REFERENCES",
    "DEFAULT",
    "GENERATED",
    "COLLATE",
    "DEFERRABLE",
    "INITIALLY",
    "ENFORCED",
}
_TAILS = {"DEFERRABLE", "INITIALLY", "ENFORCED"}
# Behind one of these a keyword opens nothing: SET NULL, BY DEFAULT, NULLS NOT DISTINCT.
_CONTINUED = {"SET", "IS", "NOT", "NOT_LA", "BY", "NULLS_P", "NULLS_LA", "DEFAULT"}


class Word(NamedTuple):
    """A token: ``name`` is the grammar's (``CHECK``, ``IDENT``), ``depth`` counts open parentheses."""

    name: str
    start: int
    end: int
    depth: int


@lru_cache(maxsize=256)
def words(text: str) -> tuple[Word, ...]:
    """Cut text into tokens, comments left out; none where it is no SQL."""
    parser = libpg.parser()
    try:
        tokens = parser.scan(text)
    except parser.ParseError:
        return ()
    found: list[Word] = []
    depth = 0
    for start, last, name, _ in tokens:
        if name in _COMMENTS:
            continue
        depth -= name == _CLOSE
        found.append(Word(name, start, last + 1, depth))
        depth += name == _OPEN
    return tuple(found)


@cache
def _up_to(keyword: str) -> re.Pattern[str]:
    """Match a text up to its first ``keyword`` where only plain words stand before it: it takes no scanner then."""
    word = keyword.removesuffix("_P").lower()
    return re.compile(rf"(?:[a-z_][a-z0-9_]*[ \t\n\r\f\v]+)*?{word}(?![\w$])", re.IGNORECASE)


def bare(text: str) -> str:
    """Strip blanks, a closing semicolon and a comment behind it."""
    if "--" not in text and "/*" not in text:
        return text.strip(_BLANKS)
    found = [word for word in words(text) if word.name != _SEMICOLON]
    return text[found[0].start : found[-1].end] if found else text.strip().rstrip(";")


def after(text: str, keyword: str, addition: str) -> str:
    """Put ``addition`` behind the first ``keyword`` that stands in no parentheses."""
    if (head := _up_to(keyword).match(text)) is not None and text.isascii():
        return f"{head[0]} {addition}{text[head.end() :]}"
    for word in words(text):
        if word.name == keyword and word.depth == 0:
            return f"{text[: word.end]} {addition}{text[word.end :]}"
    return text


def parenthesised(text: str, keyword: str) -> str:
    """Return the text of the first parentheses behind ``keyword`` (itself in none), without them; "" without any."""
    found = words(text)
    at = next((i for i, word in enumerate(found) if word.name == keyword and word.depth == 0), None)
    if at is None:
        return ""
    opening = next((word for word in found[at + 1 :] if word.name == _OPEN), None)
    if opening is None:
        return ""
    closing = (word.start for word in found if (word.name, word.depth) == (_CLOSE, opening.depth))
    return text[opening.end : next((at for at in closing if at > opening.start), len(text))].strip()


def listed(text: str) -> list[str]:
    """Cut a list at its commas."""
    commas = [word for word in words(text) if word.name == "ASCII_44" and word.depth == 0]
    starts, ends = [0, *(word.end for word in commas)], [*(word.start for word in commas), len(text)]
    return [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]


def tail(text: str, keyword: str) -> str:
    """Return what stands behind the first ``keyword`` outside parentheses; "" where it is not there."""
    if (head := _up_to(keyword).match(text)) is not None and text.isascii():
        return text[head.end() :].strip()
    for word in words(text):
        if word.name == keyword and word.depth == 0:
            return text[word.end :].strip()
    return ""


def constraint(clause: str) -> str:
    """Return the definition in ``[ADD] [CONSTRAINT name] definition``, without NOT VALID; "" for another text."""
    found = words(clause)
    if found and found[0].name == "ALTER":
        return ""
    start = 0
    if found and found[start].name == "ADD_P":
        start += 1
    if found[start:] and found[start].name == "CONSTRAINT":
        start += 2
    kept = _without_not_valid(found[start:])
    return _joined(clause, kept)


class Part(Struct, frozen=True):
    """A piece of a column's definition; ``kind`` is the first keyword, "" for name and type."""

    kind: str
    text: str


def column(clause: str) -> list[Part]:
    """Cut ``ADD [COLUMN] [IF NOT EXISTS] name type constraints…`` into its parts, the head first: ``name type``.

    Empty where it is another text.
    """
    tokens = words(clause)
    if not tokens or tokens[0].name != "ADD_P":
        return []
    found = _behind_add(tokens)
    starts = list(_part_starts(found))
    parts: list[Part] = []
    for at, start in enumerate(starts):
        end = starts[at + 1] if at + 1 < len(starts) else len(found)
        piece = found[start:end]
        if not piece:
            continue
        named = piece[0].name == "CONSTRAINT"
        kind = "" if at == 0 else piece[min(2, len(piece) - 1) if named else 0].name
        text = clause[piece[0].start : piece[-1].end]
        if (at and kind in _TAILS) or _is_tail(piece):
            parts[-1] = Part(parts[-1].kind, f"{parts[-1].text} {text}")
        else:
            parts.append(Part({"NOT_LA": "NOT", "NULL_P": "NULL"}.get(kind, kind), text))
    return parts


def unnamed(part: str) -> str:
    """Return a column constraint without ``CONSTRAINT name``."""
    found = words(part)
    return part[found[2].start :] if found and found[0].name == "CONSTRAINT" else part


def written_name(text: str) -> str | None:
    """Return the name in ``[ADD] CONSTRAINT name …`` as PostgreSQL reads it, None where it is left to PostgreSQL."""
    found = words(text)
    found = found[1:] if found and found[0].name == "ADD_P" else found
    if len(found) < 2 or found[0].name != "CONSTRAINT":
        return None
    name = text[found[1].start : found[1].end]
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _is_tail(piece: Sequence[Word]) -> bool:
    """NOT DEFERRABLE, NOT ENFORCED and NOT VALID belong to the constraint before."""
    return piece[0].name in ("NOT", "NOT_LA") and len(piece) > 1 and piece[1].name in (*_TAILS, "VALID")


def _behind_add(found: Sequence[Word]) -> Sequence[Word]:
    for optional in (("ADD_P",), ("COLUMN",), ("IF_P", "NOT", "EXISTS")):
        if tuple(word.name for word in found[: len(optional)]) == optional:
            found = found[len(optional) :]
    return found


def _part_starts(found: Sequence[Word]) -> Iterator[int]:
    """Yield where each part begins: the head at 0, then each keyword that opens a constraint."""
    yield 0
    at = 2  # a column's name may be a keyword, and its type is one word at least
    while at < len(found):
        word, before = found[at], found[at - 1]
        if word.depth == 0 and word.name in _STARTS and before.name not in _CONTINUED:
            yield at
            if word.name == "CONSTRAINT":
                at += 2  # its name and the keyword behind it
        at += 1


def _without_not_valid(found: Sequence[Word]) -> Sequence[Word]:
    names = [word.name for word in found]
    for at in range(len(names) - 1):
        if names[at] in ("NOT", "NOT_LA") and names[at + 1] == "VALID":
            return [*found[:at], *found[at + 2 :]]
    return found


def _joined(text: str, kept: Sequence[Word]) -> str:
    """Put the tokens together with the blanks that stood between them."""
    pieces = []
    for at, word in enumerate(kept):
        gap = text[kept[at - 1].end : word.start] if at else ""
        pieces.append((" " if gap else "") + text[word.start : word.end])
    return "".join(pieces)
