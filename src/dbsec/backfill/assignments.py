"""Reads the text after SET of an UPDATE: which columns it writes, and the expression of each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dbsec.errors import UsageError

# Blanks and comments, quoted texts, names, and single characters: all that separating at commas must tell apart.
_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*)
      | (?P<comment>/\*)
      | (?P<text>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*')
      | (?P<dollar>\$(?P<tag>[^\W\d]\w*)?\$)
      | (?P<name>"(?:[^"]|"")+"|[^\W\d][\w$]*)
      | (?P<number>\d[\w.]*)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_OPEN = {"(": ")", "[": "]"}


@dataclass(frozen=True, slots=True)
class Assignment:
    """A column, as the catalog has its name, and what is written to it; None where no single expression says that.

    ``names`` are all that the expression mentions: columns, functions, types.
    """

    column: str
    expression: str | None
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    begin: int
    end: int


def parse(text: str) -> tuple[Assignment, ...]:
    """Split ``a = 1, (b, c) = (2, 3)``. Errors: ``UsageError`` for what writes a part of a column, or is no SET."""
    return tuple(found for part in _split(list(_tokens(text))) for found in _assignments(text, part))


def columns(text: str) -> set[str]:
    """Name the columns that ``set`` writes, in part or whole. Errors: ``UsageError`` for what is no SET."""
    found = set()
    for part in _split(list(_tokens(text))):
        left = part[1:] if part and part[0].text == "(" else part[:1]
        end = _closing(part, 0) if left and left[0] is not part[0] else 1
        found |= {_catalog(one[0].text) for one in _split(left[: max(end - 1, 1)]) if one and one[0].kind == "name"}
    return found


def _assignments(text: str, part: list[_Token]) -> Iterator[Assignment]:
    equals = next((n for n, token in enumerate(part) if token.text == "="), 0)
    left, right = part[:equals], part[equals + 1 :]
    if not left or not right:
        raise UsageError("'set' is not what stands after SET of an UPDATE", hint='set = "column = expression"')
    if left[0].text != "(":
        yield _assignment(text, left, right)
        return
    columns, values = _split(left[1:-1]), _row(right)
    if values is None or len(values) != len(columns):
        yield from (Assignment(_column(column), None) for column in columns)
    else:
        yield from (_assignment(text, column, value) for column, value in zip(columns, values, strict=True))


def _assignment(text: str, column: list[_Token], value: list[_Token]) -> Assignment:
    if not value or (len(value) == 1 and value[0].text.lower() == "default"):
        return Assignment(_column(column), None)
    names = frozenset(_catalog(token.text) for token in value if token.kind == "name")
    return Assignment(_column(column), text[value[0].begin : value[-1].end], names)


def _column(tokens: list[_Token]) -> str:
    if len(tokens) != 1 or tokens[0].kind != "name":
        raise UsageError(
            f"'set' writes a part of a column ({''.join(token.text for token in tokens)})",
            hint="give the whole value of the column",
        )
    return _catalog(tokens[0].text)


def _catalog(name: str) -> str:
    """Spell a name as the catalog has it."""
    if name.startswith('"'):
        return name[1:-1].replace('""', '"')
    return "".join(char.lower() if char.isascii() else char for char in name)


def _row(tokens: list[_Token]) -> list[list[_Token]] | None:
    """Split ``(1, 2)`` or ``ROW(1, 2)``; None for a query."""
    inner = tokens[1:] if tokens[0].text.lower() == "row" else tokens
    if len(inner) < 3 or inner[0].text != "(" or _closing(inner, 0) != len(inner) - 1:
        return None
    return None if inner[1].text.lower() in ("select", "with", "values") else _split(inner[1:-1])


def _split(tokens: list[_Token]) -> list[list[_Token]]:
    """Split at the commas that stand in no parentheses."""
    parts: list[list[_Token]] = [[]]
    at = 0
    while at < len(tokens):
        end = _closing(tokens, at)
        if tokens[at].text == ",":
            parts.append([])
        else:
            parts[-1] += tokens[at : end + 1]
        at = end + 1
    return parts


def _closing(tokens: list[_Token], at: int) -> int:
    """Return where a parenthesis that opens at ``at`` closes; ``at`` itself where none opens there."""
    waiting: list[str] = []
    for n in range(at, len(tokens)):
        text = tokens[n].text
        if text in _OPEN:
            waiting.append(_OPEN[text])
        elif waiting and text == waiting[-1]:
            waiting.pop()
        if not waiting:
            return n
    raise UsageError("'set' has a parenthesis that does not close")


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while match := _TOKEN.match(text, at):
        kind, end = match.lastgroup or "", match.end()
        if kind == "comment":
            end = _after_comment(text, at)
        elif kind == "dollar" or match["dollar"]:
            kind, end = "text", _after(text, match["dollar"], match.end())
        if kind not in ("space", "comment"):
            yield _Token(kind, text[at:end], at, end)
        at = end


def _after(text: str, end: str, begin: int) -> int:
    found = text.find(end, begin)
    return len(text) if found < 0 else found + len(end)


def _after_comment(text: str, begin: int) -> int:
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(text, begin):
        depth += 1 if match.group() == "/*" else -1
        if depth == 0:
            return match.end()
    return len(text)
