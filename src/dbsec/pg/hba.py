"""pg_hba.conf as data: the first line that matches a connection decides, so order is meaning."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dbsec.errors import ConfigError

_TYPES = ("local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc")
_TOKEN = re.compile(r'(?:"(?:[^"]|"")*"|[^\s,"#]+|,)+')
_BARE = re.compile(r"[A-Za-z0-9_.+@/:*-]+")


@dataclass(frozen=True, slots=True)
class HbaLine:
    """One record. ``users`` and ``databases`` are names as written (``+group``, ``all``, ``replication``).

    Source: PostgreSQL, "The pg_hba.conf File".
    """

    type: str
    databases: tuple[str, ...]
    users: tuple[str, ...]
    address: str
    method: str
    options: tuple[str, ...] = ()
    comment: str = ""

    def render(self) -> str:
        """Write the record in columns, its comment on a line above."""
        users, databases = ",".join(map(_quoted, self.users)), ",".join(map(_quoted, self.databases))
        line = f"{self.type:<9} {databases:<14} {users:<20} {self.address:<15} {' '.join((self.method, *self.options))}"
        return f"# {self.comment}\n{line.rstrip()}" if self.comment else line.rstrip()


def _quoted(name: str) -> str:
    if _BARE.fullmatch(name):
        return name
    if "\n" in name or "\r" in name:
        raise ConfigError(f"a name with a line break cannot stand in pg_hba.conf: {name!r}")
    return '"' + name.replace('"', '""') + '"'


def render(lines: Iterable[HbaLine], *, header: str = "") -> str:
    """Write a whole file; ``header`` becomes comment lines at its top."""
    top = "".join(f"# {text}\n" for text in header.splitlines())
    return top + "".join(line.render() + "\n" for line in lines)


def parse(text: str) -> list[HbaLine]:
    """Read the records of a file; comments go, ``include`` lines are refused.

    Errors: ``ConfigError`` with the line number.
    """
    return [
        _record(_TOKEN.findall(line.split("#")[0]), number)
        for number, line in enumerate(text.splitlines(), 1)
        if line.split("#")[0].strip()
    ]


def _record(tokens: Sequence[str], number: int) -> HbaLine:
    kind = tokens[0] if tokens else ""
    if kind not in _TYPES:
        raise ConfigError(f"pg_hba.conf line {number}: '{kind}' is not a connection type")
    fixed = 4 if kind == "local" else 5
    if len(tokens) < fixed:
        raise ConfigError(f"pg_hba.conf line {number}: {len(tokens)} fields, {fixed} are needed")
    rest = list(tokens[fixed - 1 :])
    address = "" if kind == "local" else tokens[3]
    if address and re.fullmatch(r"\d+\.\d+\.\d+\.\d+", address) and len(rest) > 1 and rest[0].count(".") == 3:
        address = f"{address} {rest.pop(0)}"
    return HbaLine(kind, _names(tokens[1]), _names(tokens[2]), address, rest[0], tuple(rest[1:]))


def _names(field: str) -> tuple[str, ...]:
    parts = re.findall(r'"(?:[^"]|"")*"|[^,"]+', field)
    return tuple(p[1:-1].replace('""', '"') if p.startswith('"') else p for p in parts)
