"""A backfill as data: which rows of which table become what. Read from a file, or built in code."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from dbsec import canonical
from dbsec.errors import ConfigError, NewerFormat

FORMAT = 1
Rows = Sequence[Mapping[str, Any]]
Function = Callable[[Rows], Iterable[Mapping[str, Any]]]
Check = Callable[[Rows], Iterable[bool]]

_WORD = re.compile(r'"(?P<quoted>(?:[^"]|"")+)"|(?P<plain>[^\W\d][\w$]*)')
_PYTHON = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")
_TYPES: dict[str, type] = {
    **dict.fromkeys(("table", "set", "python", "where", "check", "scope"), str),
    **dict.fromkeys(("batch_rows", "batch_rows_min", "batch_rows_max", "batch_ms"), int),
}
_LISTS = ("key", "columns", "search_path")
_EFFECT = ("table", "key", "set", "python", "columns", "where", "search_path")


@dataclass(frozen=True)
class Job:
    """What a backfill does. Names are spelled as in SQL: what is not quoted is folded to lower case.

    ``key`` is what a unique index without nulls has, in its order. One of ``set`` (the text after SET of an UPDATE) and
    ``python`` (a function, or ``module:function``) is given. The function gets rows with key and ``columns``, and
    returns key and new values of the rows that it changes; where the rows change meanwhile, it is asked again.
    ``where`` says which rows still need it. SQL is run with ``search_path`` and pg_catalog alone: name schemas.
    ``scope`` says in SQL which rows it is about, and ``check`` what is true of a right one (in SQL, or a function that
    says so of each row, for a job in python): a verification asks these alone, and they are no part of the digest.
    ``batch_rows`` is the size of the first batch; then a batch takes ``batch_ms``, within its bounds (a twentieth of
    it to ten times as many). Errors: ``ConfigError``.
    """

    name: str
    table: str
    key: tuple[str, ...]
    set: str | None = None
    python: str | Function | None = None
    columns: tuple[str, ...] = ()
    where: str | None = None
    search_path: tuple[str, ...] = ()
    batch_rows: int = 1000
    batch_rows_min: int | None = None
    batch_rows_max: int | None = None
    batch_ms: int = 50
    check: str | Check | None = None
    scope: str | None = None

    @classmethod
    def load(cls, path: Path) -> Job:
        """Read a job; its name is the file's. Errors: ``ConfigError`` with file and key; ``NewerFormat``."""
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise ConfigError(f"cannot read '{path}': {exc.strerror}", hint=f"ls -l {path.parent}") from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise ConfigError(f"'{path}' is not TOML: {exc}") from exc
        try:
            return cls(name=path.stem, **_checked(values, str(path)))
        except ConfigError as exc:
            if exc.message.startswith(str(path)):
                raise
            raise ConfigError(f"{path}: {exc.message}", hint=exc.hint) from exc

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("a backfill has a name")
        if len(self.qualified) != 2:
            raise ConfigError(
                f"'table': '{self.table}' does not name its schema", hint=f'table = "public.{self.table}"'
            )
        if not self.key or len(dict.fromkeys(self.key_names)) < len(self.key):
            raise ConfigError("'key' names the columns of a unique index, each once", hint='key = "id"')
        if (self.set is None) == (self.python is None):
            raise ConfigError("one of 'set' and 'python' is given", hint='set = "column = expression"')
        if self.python is None and self.columns:
            raise ConfigError("'columns' are what a python function reads; 'set' reads all", hint="leave 'columns' out")
        if isinstance(self.python, str) and not _PYTHON.fullmatch(self.python):
            raise ConfigError(f"'python': '{self.python}' is not module:function")
        if self.python is not None and isinstance(self.check, str) and not _PYTHON.fullmatch(self.check):
            raise ConfigError(f"'check': '{self.check}' is not module:function, as for a job in python")
        if self.python is None and callable(self.check):
            raise ConfigError("'check' of a job in SQL is SQL", hint='check = "column IS NOT NULL"')
        for name in ("set", "where", "check", "scope"):
            if isinstance(text := getattr(self, name), str) and not text.strip():
                raise ConfigError(f"'{name}' is empty")
        smallest, largest = self.bounds
        if not 1 <= smallest <= self.batch_rows <= largest or self.batch_ms < 1:
            raise ConfigError(f"'batch_rows': {smallest} <= {self.batch_rows} <= {largest} must hold, from 1")
        _ = self.column_names

    @cached_property
    def qualified(self) -> tuple[str, ...]:
        """The table's schema and name, as the catalog has them."""
        return _identifiers(self.table, "table")

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        return tuple(_identifier(name, "key") for name in self.key)

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        return tuple(_identifier(name, "columns") for name in self.columns)

    @property
    def bounds(self) -> tuple[int, int]:
        """The smallest and the largest batch, in rows."""
        smallest = self.batch_rows_min if self.batch_rows_min is not None else max(1, self.batch_rows // 20)
        return smallest, self.batch_rows_max if self.batch_rows_max is not None else self.batch_rows * 10

    @cached_property
    def definition(self) -> dict[str, Any]:
        """What it does to a row, as JSON; how fast is no part of it."""
        shown = {name: getattr(self, name) for name in _EFFECT}
        if callable(self.python):
            shown["python"] = f"{self.python.__module__}:{self.python.__qualname__}"
        return {**shown, "key": list(self.key), "columns": list(self.columns), "search_path": list(self.search_path)}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the definition, in hex."""
        return hashlib.sha256(canonical.json_bytes(self.definition)).hexdigest()

    def function(self) -> Function:
        """Return the python function; its module is imported here. Errors: ``ConfigError`` where it is not there."""
        if not isinstance(self.python, str):
            assert self.python is not None, "a job in SQL has no function"
            return self.python
        return _imported("python", self.python)

    def checker(self) -> Check | None:
        """Return the function that checks a job in python, where it has one. Errors: ``ConfigError``."""
        if not isinstance(self.check, str):
            return self.check
        return _imported("check", self.check)


def command(verb: str, name: str, *options: str) -> str:
    """Write a command of ``dbsec backfill`` as a shell takes it."""
    return " ".join(("dbsec backfill", verb, shlex.quote(name), *options, "--dsn REF"))


def _imported(key: str, reference: str) -> Callable[[Rows], Iterable[Any]]:
    module, _, name = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as exc:
        raise ConfigError(f"'{key}': cannot import '{reference}': {exc}", hint=f"PYTHONPATH=. and {module}") from exc
    if not callable(found):
        raise ConfigError(f"'{key}': '{reference}' is no function")
    return found  # type: ignore[no-any-return]


def _checked(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    found = dict(values)
    if (written := found.pop("format", None)) != FORMAT:
        if isinstance(written, int) and written > FORMAT:
            raise NewerFormat(f"'{where}'", found=written, known=FORMAT)
        raise ConfigError(f"{where}: 'format' is missing, or no format of dbsec", hint=f"format = {FORMAT}")
    known = [field.name for field in fields(Job) if field.name != "name"]
    for name in found:
        if name not in known:
            close = difflib.get_close_matches(name, [*known, "format"], n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"keys are {', '.join(known)}"
            raise ConfigError(f"{where}: '{name}' is no key of a backfill", hint=hint)
    for name in ("table", "key"):
        if name not in found:
            raise ConfigError(
                f"{where}: '{name}' is missing", hint=f'{name} = "{"app.users" if name == "table" else "id"}"'
            )
    return {name: _value(name, value, where) for name, value in found.items()}


def _value(name: str, value: Any, where: str) -> Any:
    if name in _LISTS:
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise ConfigError(f"{where}: '{name}' is a list of names")
        return tuple(value)
    if not isinstance(value, _TYPES[name]) or isinstance(value, bool):
        raise ConfigError(f"{where}: '{name}' is {'text' if _TYPES[name] is str else 'a whole number'}")
    return value


def _identifiers(text: str, key: str) -> tuple[str, ...]:
    """Split ``app."Users"`` into the names that the catalog has."""
    found: list[str] = []
    at = 0
    while match := _WORD.match(text.strip(), at):
        quoted, plain = match["quoted"], match["plain"]
        found.append(quoted.replace('""', '"') if quoted else _folded(plain))
        at = match.end()
        if at == len(text.strip()):
            return tuple(found)
        if text.strip()[at] != ".":
            break
        at += 1
    raise ConfigError(f"'{key}': '{text}' is no name in SQL", hint='quote what needs it: "\\"Mixed Case\\""')


def _identifier(text: str, key: str) -> str:
    names = _identifiers(text, key)
    if len(names) != 1:
        raise ConfigError(f"'{key}': '{text}' is no column", hint="write its name alone")
    return names[0]


def _folded(name: str) -> str:
    # PostgreSQL folds ASCII alone in a UTF-8 database.
    return "".join(char.lower() if char.isascii() else char for char in name)
