"""Writes rows with what a python function makes of them; its failures name columns and counts, never a value."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.adapt import PyFormat, Transformer

from dbsec.backfill import statements
from dbsec.backfill.statements import Work
from dbsec.backfill.windows import Window
from dbsec.errors import DbsecError

Key = tuple[str, ...]


class Wrong(Exception):
    """What a function did that cannot be written; the text has no values."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A row as it was read; ``version`` is its xmin, which any write to it changes."""

    version: str
    values: Mapping[str, Any]


def write(connection: psycopg.Connection[Any], work: Work, window: Window) -> int:
    """Ask the function while no row is locked; ask again, under the lock, for rows that were written meanwhile.

    Errors: ``Wrong`` for what the function raises or returns; a ``DbsecError`` of its own passes as it is.
    """
    seen = _read(connection, work, window)
    wanted = _asked(work, seen)
    query = statements.versions(work, window)
    locked = {tuple(key): version for key, version in connection.execute(query.text, query.values)}
    stale = {key for key, version in locked.items() if key not in seen or seen[key].version != version}
    if stale:
        wanted.update(dict.fromkeys(stale))
        wanted.update(_asked(work, {key: row for key, row in _read(connection, work, window).items() if key in stale}))
    kept = {key: values for key, values in wanted.items() if key in locked and values is not None}
    return _store(connection, work, window, kept) if kept else 0


def _read(connection: psycopg.Connection[Any], work: Work, window: Window) -> dict[Key, Seen]:
    query = statements.read(work, window)
    names = statements.shown(work)
    found: dict[Key, Seen] = {}
    for key, version, *values in connection.execute(query.text, query.values):
        found[tuple(key)] = Seen(version, dict(zip(names, values, strict=True)))
    return found


def _asked(work: Work, rows: Mapping[Key, Seen]) -> dict[Key, Mapping[str, Any] | None]:
    """Call the function; returns new values by key, of the rows that it returned."""
    assert work.function is not None, "a job in SQL has no function"
    if not rows:
        return {}
    try:
        returned = list(work.function([dict(seen.values) for seen in rows.values()]))  # its own: it may change them
    except DbsecError:
        raise
    except (Exception, SystemExit) as exc:  # noqa: BLE001 whatever it is, it is told without its text
        # The text of the error is not ours, and may quote a value; so may that of its cause.
        raise Wrong(f"{type(exc).__name__} at {_place(exc)}") from None
    return _matched(work, rows, returned)


def _matched(work: Work, rows: Mapping[Key, Seen], returned: Iterable[Any]) -> dict[Key, Mapping[str, Any] | None]:
    names = work.job.key_names
    keys = {tuple(seen.values[name] for name in names): key for key, seen in rows.items()}
    found: dict[Key, Mapping[str, Any] | None] = {}
    for row in returned:
        if not isinstance(row, Mapping) or any(name not in row for name in names):
            raise Wrong(f"it returned a row without its key ({', '.join(names)})")
        try:
            key = keys.get(tuple(row[name] for name in names))
        except TypeError:  # it has no hash
            key = None
        if key is None or key in found:
            raise Wrong("it returned a key that it was not given, or one twice")
        found[key] = {name: value for name, value in row.items() if name not in names}
    return found


def _store(
    connection: psycopg.Connection[Any], work: Work, window: Window, rows: Mapping[Key, Mapping[str, Any]]
) -> int:
    names = list(next(iter(rows.values())))
    _writable(work, names, rows)
    keys = [list(texts) for texts in zip(*rows, strict=True)]
    values = [[row[name] for row in rows.values()] for name in names]
    for at, name in enumerate(names):
        if work.target.columns[name].array:
            values[at] = _literals(connection, values[at])
    query = statements.store(work, window, names)
    ends = [*(window.low or ()), *window.high]
    return connection.execute(query, [*keys, *values, *ends]).rowcount


def _writable(work: Work, names: Sequence[str], rows: Mapping[Key, Mapping[str, Any]]) -> None:
    columns = work.target.columns
    for name in names:
        if name not in columns or columns[name].generated:
            what = "is generated" if name in columns else "is no column of the table"
            raise Wrong(f"it returned '{name}', which {what}")
    if not names or any(set(row) != set(names) for row in rows.values()):
        raise Wrong("it must return the same new columns, one at least, for each row of a batch")


def _literals(connection: psycopg.Connection[Any], values: Iterable[Any]) -> list[str | None]:
    adapt = Transformer(connection)
    dumped = (None if v is None else adapt.get_dumper(v, PyFormat.TEXT).dump(v) for v in values)
    return [None if text is None else bytes(text).decode() for text in dumped]


def _place(exc: BaseException) -> str:
    frames = traceback.extract_tb(exc.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
