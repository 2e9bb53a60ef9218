"""The schema that a dump tells: what pg_dump -s wrote, or CREATE statements by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dbsec.errors import UsageError
from dbsec.migrations import collector
from dbsec.migrations.interpret import operations_of
from dbsec.migrations.reading.parse import parse
from dbsec.migrations.schema.apply import DEFAULT_PATH, apply
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script, Unread
from dbsec.migrations.statement import Statement

_VERSION = re.compile(r"^-- Dumped from database version (\d+)", re.MULTILINE)
_DATA = re.compile(r"^COPY .* FROM stdin;\n(?:.*\n)*?\\\.$", re.MULTILINE)
_META = re.compile(r"^\\[a-zA-Z].*$", re.MULTILINE)
_HEADER = "\n--\n-- Name: "  # pg_dump's comment above each object
_PART = 1 << 18


def from_dump(text: str, *, source: str) -> tuple[Schema, list[Unread]]:
    """Read a dump into a schema that is ``known``; what of it cannot be read is told beside.

    Errors: ``UsageError`` for what is no SQL (pg_dump's own formats, an empty file).
    """
    _refuse_archive(text, source)
    version = _VERSION.search(text)
    schema = Schema(known=True, source=source, major=int(version[1]) if version else None)
    unread: list[Unread] = []
    count = 0
    with collector.paused():
        for script in _parts(_blanked(text), source):
            statements, missed = parse(script)
            unread += missed
            count += len(statements)
            for operation in (operation for statement in statements for operation in operations_of(statement)):
                apply(schema, operation, released=False)
    if not count:
        hint = "pg_dump -s DATABASE > schema.sql"
        raise UsageError(f"'{source}' has no SQL statement in it: a schema is what 'pg_dump -s' writes", hint=hint)
    schema.search_path, schema.outer_path = DEFAULT_PATH, None
    return schema, unread


def statements_of(text: str, *, source: str) -> Iterator[Statement]:
    """Yield the statements of a dump; what cannot be read is left out."""
    for script in _parts(_blanked(text), source):
        yield from parse(script)[0]


def _refuse_archive(text: str, source: str) -> None:
    if text.startswith("PGDMP") or text.startswith("toc.dat\0"):
        raise UsageError(f"'{source}' is an archive of pg_dump, no SQL", hint=f"pg_restore -s -f schema.sql {source}")


def _blanked(text: str) -> str:
    r"""Blank rows of COPY and psql's commands (``\restrict``, ``\connect``), lines kept."""
    text = text.replace("\r\n", "\n")
    if "FROM stdin;" in text:
        text = _DATA.sub(lambda found: "\n" * found[0].count("\n"), text)
    return _META.sub("", text)


def _parts(text: str, source: str) -> Iterator[Script]:
    """Cut a large dump where pg_dump begins an object: the tree of all at once would take gigabytes."""
    start, line = 0, 1
    while start < len(text):
        cut = text.find(_HEADER, start + _PART)
        end = cut if cut > 0 else len(text)
        part = text[start:end]
        count = part.count("\n")
        yield Script(source, part, deployed=True, lines=tuple(range(line, line + count + 1)) if line > 1 else ())
        start, line = end, line + count
