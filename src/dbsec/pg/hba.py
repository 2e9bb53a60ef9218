"""pg_hba.conf as data: the first line that matches a connection decides, so order is meaning."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dbsec.errors import ConfigError

_TYPES = ("local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc")
_KEYWORDS = ("all", "sameuser", "samerole", "samegroup", "replication", "samehost", "samenet")
_BLANKS_AND_COMMAS = re.compile(r"[ \t\r,]*")
_PART = re.compile(r'"((?:[^"]|"")*)"|([^ \t\r,"#]+)')
# A backslash at the end of a line joins the next one to it, so it never stands bare.
_BARE = re.compile(r'[^\s,"#\\]+')
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True, slots=True)
class HbaLine:
    """One record. ``users`` and ``databases`` mean what they mean to PostgreSQL without quotes: ``+group``, ``all``,
    ``replication``; a role or database that only looks like one of these is given by ``literal``.

    Source: PostgreSQL, "The pg_hba.conf File".
    """

    type: str
    databases: tuple[str, ...]
    users: tuple[str, ...]
    address: str
    method: str
    options: tuple[str, ...] = ()
    comment: str = ""

    def columns(self) -> tuple[str, str, str, str, str]:
        """Write type, databases, users, address, and method with options, each with its quotes.

        Errors: ``ConfigError`` for what the file cannot hold: a line break in a name, an empty list.
        """
        if self.type not in _TYPES or (self.type == "local") != (not self.address) or not self.method:
            raise ConfigError(f"'{self.type} {self.address} {self.method}' is not a record of pg_hba.conf")
        rest = " ".join(map(_written, (self.method, *self.options)))
        return self.type, _list(self.databases), _list(self.users), _address(self.address), rest


def literal(name: str) -> str:
    """Write a role or database name so that it is never a keyword, a group or a file: ``all`` becomes ``"all"``."""
    return _quoted(name) if name in _KEYWORDS or name[:1] in ("", "+", "@", '"') else name


def render(lines: Iterable[HbaLine], *, header: str = "") -> str:
    """Write a whole file in columns, each comment above its record; ``header`` becomes comment lines at the top.

    Errors: as ``HbaLine.columns``.
    """
    records = [(_comment(line.comment), line.columns()) for line in lines]
    widths = [max(map(len, column)) for column in zip(*(columns for _, columns in records), strict=True)]
    text = _comment(header)
    for comment, columns in records:
        gap = "\n" if comment and text else ""
        cells = (cell.ljust(width) for cell, width in zip(columns, widths, strict=True))
        text += gap + comment + "  ".join(cells).rstrip() + "\n"
    return text


def parse(text: str) -> list[HbaLine]:
    """Read the records of a file; comments go, ``include`` lines are refused.

    Errors: ``ConfigError`` with the line number. Source: next_token() and tokenize_auth_file() in hba.c.
    """
    tokenized = ((number, _fields(line, number)) for number, line in _joined(text))
    return [_record(fields, number) for number, fields in tokenized if fields]


def _list(names: Sequence[str]) -> str:
    if not names:
        raise ConfigError("a record of pg_hba.conf without a database or a user matches nothing")
    return ",".join(map(_written, names))


def _written(name: str) -> str:
    if not name or re.search(r"[\n\r\0]", name):
        raise ConfigError(f"an empty name, or one with a line break, cannot stand in pg_hba.conf: {name!r}")
    if _BARE.fullmatch(name) or _QUOTED.fullmatch(name):
        return name
    if name.startswith('"'):
        raise ConfigError(f"{name!r} begins with a quote and is not quoted to its end: use hba.literal()")
    # The mark of a group or a file stands before the quotes: within them it would be part of the name.
    return name[0] + _quoted(name[1:]) if name[0] in "+@" else _quoted(name)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _address(address: str) -> str:
    return address if not address or _is_masked(address.split(" ")) else _written(address)


def _is_masked(parts: Sequence[str]) -> bool:
    return len(parts) == 2 and all(map(_is_ip, parts))


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _comment(text: str) -> str:
    lines = (f"# {line}".rstrip() for line in text.splitlines())
    # A comment that ends in a backslash would swallow the record below it.
    return "".join(f"{line} \n" if line.endswith("\\") else f"{line}\n" for line in lines)


def _joined(text: str) -> Iterator[tuple[int, str]]:
    begun, held = 0, ""
    for number, raw in enumerate(text.split("\n"), 1):
        begun, line = begun or number, held + raw.rstrip("\r")
        if line.endswith("\\"):
            held = line[:-1]
            continue
        yield begun, line
        begun, held = 0, ""
    if held:
        yield begun, held


def _fields(line: str, number: int) -> list[list[str]]:
    fields: list[list[str]] = []
    position, continues = 0, False
    while True:
        skipped = _BLANKS_AND_COMMAS.match(line, position)
        position = skipped.end() if skipped else position
        if position == len(line) or line[position] == "#":
            return fields
        name, position = _token(line, position, number)
        if continues:
            fields[-1].append(name)
        else:
            fields.append([name])
        continues = line[position : position + 1] == ","


def _token(line: str, start: int, number: int) -> tuple[str, int]:
    text, position = "", start
    while part := _PART.match(line, position):
        text += part[1].replace('""', '"') if part[1] is not None else part[2]
        position = part.end()
    if line[position : position + 1] == '"':
        raise ConfigError(f"pg_hba.conf line {number}: a quote is not closed")
    return literal(text) if line[start] == '"' else text, position


def _record(fields: list[list[str]], number: int) -> HbaLine:
    kind = fields[0][0]
    if kind not in _TYPES or len(fields[0]) > 1:
        raise ConfigError(f"pg_hba.conf line {number}: '{kind}' is not a connection type")
    fixed = 4 if kind == "local" else 5
    if len(fields) < fixed:
        raise ConfigError(f"pg_hba.conf line {number}: {len(fields)} fields, {fixed} are needed")
    if any(len(field) > 1 for field in fields[3:]):
        raise ConfigError(f"pg_hba.conf line {number}: only databases and users may be lists")
    rest = [field[0] for field in fields[3:]]
    address = "" if kind == "local" else rest.pop(0)
    if address and _is_masked([address, rest[0]]):
        address = f"{address} {rest.pop(0)}"
    if not rest:
        raise ConfigError(f"pg_hba.conf line {number}: there is no method")
    return HbaLine(kind, tuple(fields[1]), tuple(fields[2]), address, rest[0], tuple(rest[1:]))
