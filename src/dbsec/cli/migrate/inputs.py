"""What the options of ``dbsec migrate`` name: a version, rules, a schema, a server, paths, a span of time."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbsec.errors import ConfigError, ConnectError, ProgramMissing, UsageError, reason

if TYPE_CHECKING:
    import psycopg

    from dbsec.migrations.rule import Rule
    from dbsec.migrations.schema.model import Schema
    from dbsec.migrations.script import Unread, Wrap
    from dbsec.pg import Conninfo
    from dbsec.pg.binaries import Source

MAJORS = range(14, 19)
PROVEN = (15, 17, 18)  # of these; dbsec.pg.binaries.PROVEN would bring the driver
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h)?")
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, None: 1.0}


def need_parser() -> None:
    """Say what to install where PostgreSQL's parser is not there. Errors: ``ProgramMissing``."""
    try:
        from dbsec.migrations.reading import libpg

        libpg.parser()
    except ImportError as exc:
        hint = "pip install 'dbsec[migrations]'"
        raise ProgramMissing("'dbsec migrate' needs 'pglast', which is not installed", hint=hint) from exc


def major_of(given: str | None, schema: Schema | None, default: int) -> int:
    """Decide the server's major: the one given, else the schema's, else the default; says where it is unproven."""
    text = given if given is not None else str((schema.major if schema else None) or default)
    match = re.fullmatch(r"(\d{1,2})(?:\.\d{1,3})?", text.strip())
    if match is None or int(match[1]) not in MAJORS:
        known = ", ".join(map(str, MAJORS))
        whose = "" if given is not None else " (the schema's own)"
        raise UsageError(f"PostgreSQL '{text}'{whose} is none that the linter knows", hint=f"--pg-version of {known}")
    if (major := int(match[1])) not in PROVEN:
        print(f"dbsec: PostgreSQL {major} is unproven: its rules are those of the versions around it", file=sys.stderr)
    return major


def chosen(rules: Mapping[str, Rule], select: Sequence[str], ignore: Sequence[str]) -> dict[str, Rule]:
    """Choose rules by code, name, or the beginning of a code (``MIG2``). Errors: ``UsageError`` for one of no rule."""
    wanted, unwanted = _named(rules, select), _named(rules, ignore)
    return {name: rule for name, rule in rules.items() if (not select or name in wanted) and name not in unwanted}


def _named(rules: Mapping[str, Rule], given: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for text in (part.strip() for one in given for part in one.split(",") if part.strip()):
        code = re.fullmatch(r"[A-Z]+\d*", text.upper())
        these = {n for n, r in rules.items() if text == n or (code and r.code.startswith(text.upper()))}
        if not these:
            names = [*rules, *(rule.code for rule in rules.values())]
            close = difflib.get_close_matches(text, names, n=1)
            raise UsageError(
                f"there is no rule '{text}'", hint=f"--select {close[0]}" if close else "dbsec migrate rules"
            )
        found |= these
    return found


def paths_of(given: Sequence[str]) -> list[str]:
    """Write paths as seen from here, so that keys and reports do not depend on how one was typed.

    Errors: ``UsageError`` for one that is not there.
    """
    found = []
    for path in given:
        if path != "-" and not os.path.lexists(path):
            raise UsageError(f"there is no '{path}'", hint=f"ls -l {Path(path).parent}")
        if path != "-":
            relative = os.path.relpath(path)
            path = path if relative.startswith("..") else relative
        found.append(path)
    return list(dict.fromkeys(found))


def wrap_of(transaction: str) -> Wrap | None:
    """Turn ``--transaction`` into what ``source.read`` takes: None leaves it to each file's tool."""
    from dbsec.migrations.script import Wrap

    return None if transaction == "auto" else Wrap(transaction)


def source_of(postgres: str) -> Source:
    """Turn ``--postgres`` into what ``binaries.find`` takes."""
    from dbsec.pg.binaries import Source

    return Source(postgres)


def span_s(given: str) -> float:
    """Read ``10s``, ``500ms``, ``2min``; bare numbers are seconds. Errors: ``UsageError``."""
    match = _SPAN.fullmatch(given.strip())
    if match is None:
        raise UsageError(f"'{given}' is no span of time", hint="write 10s, 500ms or 2min")
    return float(match[1]) * _UNITS[match[2]]


def conninfo_of(reference: str) -> Conninfo:
    """Read the DSN that ``env:NAME`` or ``file:PATH`` refers to. Errors: ``ConfigError``, without the DSN."""
    from dbsec.pg import Conninfo
    from dbsec.secret import resolve

    return Conninfo.parse(resolve(reference, environ=os.environ).reveal())


@contextmanager
def connected(reference: str) -> Iterator[psycopg.Connection[Any]]:
    """Connect to what a reference says; the server's refusals become ``ConnectError``."""
    from dbsec.pg import connect

    with connect(conninfo_of(reference)) as connection, refusals():
        yield connection


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what a server refuses into ``ConnectError``, without what may quote a row."""
    import psycopg

    from dbsec.pg import quoting

    try:
        yield
    except psycopg.Error as exc:
        state = exc.sqlstate or ""
        hidden = quoting.by_function(exc) or state.startswith(("22", "P0"))
        said = f"{state}: its message may quote a row, see the server's log" if hidden else reason(exc)
        raise ConnectError(f"PostgreSQL refused: {said}", sqlstate=exc.sqlstate, hint="psql, as the same user") from exc


def stdin_text() -> str:
    """Read standard input. Errors: ``UsageError`` where it is not UTF-8."""
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as exc:
        raise UsageError(f"what came from stdin is not UTF-8: {exc}", hint="iconv -f latin1 -t utf-8") from exc


def schema_text(file: Path) -> str:
    """Read a dump. Errors: ``UsageError``, ``ConfigError``."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"cannot read '{file}': {exc.strerror}", hint=f"ls -l {file}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"'{file}' is not UTF-8: {reason(exc)}", hint="pg_dump -s -E UTF8 -f schema.sql") from exc


def schema_of(file: Path | None, dsn: str | None) -> tuple[Schema | None, list[Unread]]:
    """Load the deployed schema from a dump or a server; None where neither is named."""
    if file is not None and dsn is not None:
        raise UsageError("--schema and --dsn both name a schema", hint="give one of them")
    if dsn is not None:
        from dbsec.migrations.schema.catalog import from_catalog

        with connected(dsn) as connection:
            return from_catalog(connection), []
    if file is None:
        return None, []
    from dbsec.migrations.schema.dump import from_dump

    return from_dump(schema_text(file), source=str(file))
