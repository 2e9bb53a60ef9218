"""DSNs in files: URLs and libpq strings in any text, calls and settings in Python, service files, PG* variables."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from dbsec.errors import ConfigError
from dbsec.tls.dsn_lint.dsn import Driver, Dsn, Spelling, of_params, parse

_LARGEST = 4 * 1024 * 1024
_SKIPPED = frozenset({".git", "node_modules", ".venv", "venv", "__pycache__", ".mypy_cache", ".tox", "site-packages"})
_READ = frozenset(
    {".py", ".env", ".toml", ".yml", ".yaml", ".json", ".ini", ".cfg", ".conf", ".properties", ".sh", ".xml", ".tf", ""}
)
_SCHEMES = r"(?:jdbc:)?(?:postgres(?:ql)?|mysql|mariadb)(?:\+[a-z0-9_]+)?"
_URL = re.compile(_SCHEMES + r"://[^\s\"'`<>]+", re.IGNORECASE)
_KEYWORDS = re.compile(
    r"\b(?:host|hostaddr|dbname|service)\s*=\s*[^\s\"'=,;()]+(?:\s+[a-z_]+\s*=\s*(?:'[^']*'|[^\s\"'=,;()]+))+"
)
_PG_VARIABLE = re.compile(r"^\s*(?:export\s+)?(PG[A-Z]+)\s*[=:]\s*[\"']?([^\s\"'#]*)")
_BY_VARIABLE = {
    "PGHOST": "host", "PGHOSTADDR": "hostaddr", "PGPORT": "port", "PGUSER": "user", "PGDATABASE": "dbname",
    "PGPASSWORD": "password", "PGSSLMODE": "sslmode", "PGSSLROOTCERT": "sslrootcert", "PGSSLCERT": "sslcert",
    "PGREQUIREAUTH": "require_auth", "PGCHANNELBINDING": "channel_binding",
}  # fmt: skip
_CALLS = {"psycopg": Driver.LIBPQ, "psycopg2": Driver.LIBPQ, "asyncpg": Driver.ASYNCPG, "pymysql": Driver.PYMYSQL}
_ENGINES = {"django.db.backends.postgresql": Driver.LIBPQ, "django.db.backends.mysql": Driver.PYMYSQL}
_RENAMED = {"database": "dbname", "db": "dbname", "HOST": "host", "PORT": "port", "USER": "user", "NAME": "dbname"}


@dataclass(frozen=True, slots=True)
class Unread:
    """A file that could not be looked at, and why."""

    path: str
    reason: str


def read(paths: Iterable[Path]) -> Iterator[Dsn | Unread]:
    """Yield the DSNs of files and folders; links are not followed out of a folder, and none is read twice."""
    seen: set[Path] = set()
    for path in paths:
        for file in _files(path):
            if (real := file.resolve()) not in seen:
                seen.add(real)
                yield from _of_file(file)


def _files(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise ConfigError(f"'{path}' is not there", hint="name a file, a folder, or a DSN")
    if path.is_file():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED)
        for name in sorted(names):
            file = Path(folder, name)
            if (file.suffix in _READ or name.startswith(".env")) and file.is_file() and not file.is_symlink():
                yield file


def _of_file(file: Path) -> Iterator[Dsn | Unread]:
    try:
        if file.stat().st_size > _LARGEST:
            yield Unread(str(file), f"larger than {_LARGEST // 1024 // 1024} MiB")
            return
        content = file.read_bytes()
    except OSError as exc:
        yield Unread(str(file), exc.strerror or "unreadable")
        return
    if b"\0" in content:
        return  # no text
    text = content.decode("utf-8", "replace")
    for line, dsn in _of_text(file, text):
        yield replace(dsn, where=MappingProxyType({"file": str(file), "line": line}))


def _of_text(file: Path, text: str) -> Iterator[tuple[int, Dsn]]:
    if file.suffix == ".py":
        yield from _of_python(text)
        return
    if file.name in ("pg_service.conf", ".pg_service.conf"):
        yield from _of_service(text)
        return
    variables: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith(("#", "//")):
            continue
        if (found := _PG_VARIABLE.match(line)) and found[1] in _BY_VARIABLE:
            variables[_BY_VARIABLE[found[1]]] = (number, found[2])
        yield from ((number, dsn) for dsn in _in_string(line))
    if {"host", "hostaddr"} & variables.keys():
        values = {name: value for name, (_, value) in variables.items() if value}
        number = min(number for number, _ in variables.values())
        yield number, of_params(values, Driver.LIBPQ, Spelling.KEYWORDS)


def _in_string(text: str) -> Iterator[Dsn]:
    for found in (*_URL.finditer(text), *_KEYWORDS.finditer(text)):
        try:
            yield parse(found[0].rstrip(",;)]}"))
        except ConfigError:
            continue  # what only looks like one


def _of_service(text: str) -> Iterator[tuple[int, Dsn]]:
    begun, values = 0, dict[str, str]()
    for number, raw in enumerate([*text.splitlines(), "[end]"], 1):
        line = raw.strip()
        if line.startswith("[") and line.endswith("]"):
            if values:
                yield begun, of_params(values, Driver.LIBPQ, Spelling.SERVICE)
            begun, values = number, {}
        elif "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            values[name.strip()] = value.strip()


def _of_python(text: str) -> Iterator[tuple[int, Dsn]]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        for number, line in enumerate(text.splitlines(), 1):
            yield from ((number, dsn) for dsn in _in_string(line))
        return
    documentation = set(_docstrings(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield from ((node.lineno, dsn) for dsn in _in_string(node.value))
        elif isinstance(node, ast.Call) and (driver := _driver_of(node)) is not None:
            values = {k.arg: v for k in node.keywords if k.arg and (v := _value(k.value)) is not None}
            if not node.args and {"host", "hostaddr", "unix_socket", "database", "dbname"} & values.keys():
                yield node.lineno, of_params(_renamed(values), driver, Spelling.CALL)
        elif isinstance(node, ast.Dict) and (dsn := _of_django(node)) is not None:
            yield node.lineno, dsn


def _docstrings(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            yield id(body[0].value)


def _driver_of(node: ast.Call) -> Driver | None:
    function = node.func
    if not isinstance(function, ast.Attribute) or function.attr not in ("connect", "create_pool"):
        return None
    return _CALLS.get(function.value.id) if isinstance(function.value, ast.Name) else None


def _of_django(node: ast.Dict) -> Dsn | None:
    names = {k.value: v for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)}
    engine = names.get("ENGINE")
    if not isinstance(engine, ast.Constant) or (driver := _ENGINES.get(str(engine.value))) is None:
        return None
    values = {str(n): v for n, node in names.items() if n != "ENGINE" and (v := _value(node)) is not None}
    options = names.get("OPTIONS")
    if isinstance(options, ast.Dict):
        pairs = zip(options.keys, options.values, strict=True)
        values |= {str(k.value): v for k, n in pairs if isinstance(k, ast.Constant) and (v := _value(n)) is not None}
    if "PASSWORD" in values:
        values["password"] = values.pop("PASSWORD")
    return of_params(_renamed(values), driver, Spelling.CALL)


def _value(node: ast.expr) -> str | None:
    """Return a literal as text; what is computed is there, and not known."""
    if isinstance(node, ast.Constant):
        return None if node.value is None else str(node.value)
    return None if isinstance(node, ast.Dict) else "<computed>"


def _renamed(values: dict[str, str]) -> dict[str, str]:
    return {_RENAMED.get(name, name): value for name, value in values.items()}
