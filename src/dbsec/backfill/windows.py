"""Windows of a key: the rows after one key up to another, found by the key's index; and how large the next one is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from dbsec.backfill.target import Column, Target, named

Key = Sequence[str]


@dataclass(frozen=True, slots=True)
class Window:
    """Rows with keys above ``low`` (None: from the first) up to ``high``; a key is one text a column."""

    low: Key | None
    high: Key


class Page(NamedTuple):
    """What a look at a window found: so many ``rows``, all of them in ``window``; none where it is empty."""

    rows: int
    window: Window


class Part(NamedTuple):
    """A piece of SQL and the values of its placeholders."""

    text: sql.Composed
    values: list[Any]


def columns(target: Target, prefix: str = "") -> sql.Composed:
    """Write the key's columns as a list: what ORDER BY takes, and a row comparison between parentheses."""
    return sql.SQL(", ").join(sql.Composed([sql.SQL(prefix), column.identifier]) for column in target.key)


def texts(target: Target) -> sql.Composed:
    """Write the key as text[]: as JSON has it, which DateStyle and the like do not change."""
    parts = [sql.SQL("pg_catalog.to_jsonb({}) #>> '{{}}'").format(column.identifier) for column in target.key]
    return sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(parts))


def inside(target: Target, window: Window, prefix: str = "") -> Part:
    """Write the condition that a row is in a window, as row comparisons: what a btree index answers."""
    if any(column.operators != "pg_catalog" for column in target.key):
        return _inside_by_column(target, window, prefix)
    row = sql.SQL("({})").format(columns(target, prefix))
    key = sql.SQL("({})").format(sql.SQL(", ").join(sql.SQL("%s") + column.cast for column in target.key))
    if window.low is None:
        return Part(sql.SQL("{} <= {}").format(row, key), [*window.high])
    return Part(sql.SQL("{} > {} AND {} <= {}").format(row, key, row, key), [*window.low, *window.high])


def _inside_by_column(target: Target, window: Window, prefix: str) -> Part:
    """Write the same with each column's own operators, whose schema is on no path: a row comparison takes one name."""
    high = _beyond(target.key, window.high, prefix, "<")
    high_or_at = Part(sql.SQL("({} OR ({}))").format(high.text, _at(target.key, prefix)), [*high.values, *window.high])
    bound = _compared(target.key[0], prefix, "<=")
    text, values = sql.SQL("{} AND {}").format(bound, high_or_at.text), [window.high[0], *high_or_at.values]
    if window.low is None:
        return Part(text, values)
    low = _beyond(target.key, window.low, prefix, ">")
    # The first column's bounds follow from the rest; they are what the index answers.
    first = _compared(target.key[0], prefix, ">=")
    return Part(sql.SQL("{} AND {} AND {}").format(first, low.text, text), [window.low[0], *low.values, *values])


def _beyond(key: Sequence[Column], texts: Key, prefix: str, operator: str) -> Part:
    ways = [
        sql.SQL(" AND ").join([_compared(one, prefix, "=") for one in key[:n]] + [_compared(key[n], prefix, operator)])
        for n in range(len(key))
    ]
    return Part(
        sql.SQL("({})").format(sql.SQL(" OR ").join(ways)), [t for n in range(len(key)) for t in texts[: n + 1]]
    )


def _at(key: Sequence[Column], prefix: str) -> sql.Composed:
    return sql.SQL(" AND ").join(_compared(one, prefix, "=") for one in key)


def _compared(column: Column, prefix: str, operator: str) -> sql.Composed:
    schema = named(column.operators)
    return sql.SQL("{}{} OPERATOR({}.{}) %s{}").format(
        sql.SQL(prefix), column.identifier, schema, sql.SQL(operator), column.cast
    )


def page_query(target: Target, window: Window, rows: int) -> Part:
    """Write the query for the first ``rows`` keys of a window: how many there are, and the last one."""
    condition = inside(target, window)
    query = sql.SQL(
        "WITH page AS MATERIALIZED (SELECT {key} FROM {table} WHERE {inside} ORDER BY {key} LIMIT %s)"
        " SELECT (SELECT count(*) FROM page), {texts} FROM page ORDER BY {back} LIMIT 1"
    ).format(
        key=columns(target),
        table=target.identifier,
        inside=condition.text,
        texts=texts(target),
        back=sql.SQL(", ").join(sql.SQL("{} DESC").format(column.identifier) for column in target.key),
    )
    return Part(query, [*condition.values, rows])


def page(connection: psycopg.Connection[Any], target: Target, window: Window, rows: int) -> Page:
    """Look at the first ``rows`` rows of a window; fewer are its last ones."""
    query = page_query(target, window, rows)
    found = connection.execute(query.text, query.values).fetchone()
    return Page(found[0], Window(window.low, found[1])) if found else Page(0, window)


class Pace:
    """How many rows the next batch has, so that one takes ``target_s``; within its bounds."""

    def __init__(self, rows: int, bounds: tuple[int, int], target_s: float) -> None:
        self.rows = rows
        self._smallest, self._largest = bounds
        self._target_s = target_s

    def took(self, seconds: float, rows: int) -> None:
        """Learn from a batch. A batch of the last rows of a range says little: it never makes the next one larger."""
        factor = min(2.0, max(0.25, self._target_s / max(seconds, 1e-6)))
        if factor < 1 or rows >= self.rows:
            self._set(int(self.rows * factor))

    def conflicted(self) -> None:
        """Halve: fewer rows are held, and fewer are lost."""
        self._set(self.rows // 2)

    def _set(self, rows: int) -> None:
        self.rows = max(self._smallest, min(self._largest, rows))
