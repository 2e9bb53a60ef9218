"""What only psql and the tools understand: meta-commands, data of COPY, variables; blanked, every place kept."""

from __future__ import annotations

import re

from dbsec.migrations.reading import lexer
from dbsec.migrations.reading.lexer import Part, blanked

_SUSPECT = re.compile(r"\\|:(?<!::)[\"'A-Za-z_]|\$\{")
_PLACEHOLDER = re.compile(r"\$\{[^}\n]*\}")
_NO_NAME = re.compile(r"\W")
_VARIABLE = re.compile(r"(?<!:):(?=[\"'A-Za-z_])")
_COPY = re.compile(r"\s*copy\b.*\bfrom\s+p?stdin\b", re.IGNORECASE | re.DOTALL)
_END_OF_DATA = re.compile(r"^\\\.[ \t]*\r?$", re.MULTILINE)
_END_OF_COMMAND = re.compile(r"\n|\\\\|\Z")
_SENDS = re.compile(r"\\(?:g|gx|gset|gexec|gdesc|crosstabview|watch|bind|parse)\b")
_AHEAD = 200  # characters in which a bracket that is open is looked for


def sql_of(text: str) -> str:
    """Return the SQL of a script, as long as it was, with every character of SQL in its place.

    Meta-commands and data of COPY become blanks (a semicolon where one sends the query); ``:name`` and ``${name}``
    become something that can be parsed.
    """
    if _is_sql(text, 0):
        return text
    text = _PLACEHOLDER.sub(lambda found: _NO_NAME.sub("_", found[0]), text)
    done: list[str] = []
    at = 0
    while not _is_sql(text, at):
        at = _until_break(text, at, done)
    done.append(text[at:])
    return "".join(done)


def _is_sql(text: str, start: int) -> bool:
    """Tell whether nothing of psql or a tool can stand behind a place: mostly it is a command at the head of a file."""
    return not _SUSPECT.search(text, start) and "stdin" not in text[start:].lower()


def _until_break(text: str, start: int, done: list[str]) -> int:
    """Copy the text up to a meta-command or data of COPY and past it; returns where to go on."""
    at = start
    words: list[str] = []  # of the statement, without quotes and comments
    for piece in lexer.pieces(text, start):
        plain = _with_values(text, at, piece.start)
        done.append(plain)
        words.append(plain)
        if piece.part is Part.BACKSLASH:
            return _command(text, piece.start, done)
        done.append(text[piece.start : piece.end])
        at = piece.end
        if piece.part is Part.SEMICOLON:
            if _COPY.match("".join(words)):
                return _data(text, at, done)
            words.clear()
        elif piece.part not in (Part.QUOTED, Part.LINE_COMMENT, Part.BLOCK_COMMENT):
            words.append(text[piece.start : piece.end])
    done.append(_with_values(text, at, len(text)))
    return len(text)


def _command(text: str, start: int, done: list[str]) -> int:
    """Blank a meta-command: to the end of its line, or to the two backslashes that end it."""
    if text.startswith("\\;", start):
        done.append(" ;")
        return start + 2
    found = _END_OF_COMMAND.search(text, start + 1)
    end = len(text) if found is None else found.end() if found[0].startswith("\\") else found.start()
    blank = blanked(text[start:end])
    done.append(";" + blank[1:] if _SENDS.match(text, start) else blank)
    return end


def _data(text: str, start: int, done: list[str]) -> int:
    """Blank what follows ``COPY … FROM stdin;`` up to the line that ends it."""
    line = text.find("\n", start)
    if line < 0:
        return start
    found = _END_OF_DATA.search(text, line + 1)
    end = found.end() if found else len(text)
    done.append(blanked(text[start:end]))
    return end


def _with_values(text: str, start: int, end: int) -> str:
    """Make variables parsable: the colon becomes a blank, or part of the word that it stands in."""
    plain = text[start:end]
    if ":" not in plain:
        return plain
    signs = list(plain)
    for found in _VARIABLE.finditer(text, start, end + 1):
        place = found.start()
        if place >= end or (place and text[place - 1] == ":") or _in_brackets(text, place):
            continue
        before = text[place - 1 : place]
        signs[place - start] = "_" if before.isalnum() or before == "_" else " "
    return "".join(signs)


def _in_brackets(text: str, place: int) -> bool:
    """Tell a slice, ``a[1:n]``, from a variable."""
    line = text[max(place - _AHEAD, 0) : place].rpartition("\n")[2]
    return line.rfind("[") > line.rfind("]")
