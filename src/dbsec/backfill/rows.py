"""Writes the rows of a window: in SQL, or with what a python function returns for them."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.adapt import PyFormat, Transformer

from dbsec.backfill import windows
from dbsec.backfill.job import Function, Job
from dbsec.backfill.target import Column, Target
from dbsec.backfill.windows import Part, Window
from dbsec.errors import ApplyError, DbsecError

_T = sql.SQL("dbsec_t.")
Values = dict[tuple[Any, ...], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Work:
    """A job, its table, and its python function where it has one."""

    job: Job
    target: Target
    function: Function | None


@dataclass(frozen=True, slots=True)
class Seen:
    """A row as it was read: ``version`` is its xmin, which any write to it changes."""

    version: str
    values: Mapping[str, Any]


def write(connection: psycopg.Connection[Any], work: Work, window: Window) -> int:
    """Write the rows of a window that ``where`` names, locked in the order of the key; returns how many."""
    if work.function is None:
        lock, update = lock_query(work, window), update_query(work, window)
        connection.execute(lock.text, lock.values)
        return connection.execute(update.text, update.values).rowcount
    return _write_python(connection, work, window, work.function)


def lock_query(work: Work, window: Window) -> Part:
    """Write the query that locks what an UPDATE is about to write: two that lock in one order do not deadlock."""
    rows = _matching(work, window, sql.SQL(""))
    count = sql.SQL("SELECT count(*) FROM ({} FOR NO KEY UPDATE) AS locked").format(rows.text)
    return Part(count, rows.values)


def update_query(work: Work, window: Window) -> Part:
    """Write the UPDATE of a job in SQL."""
    assert work.job.set is not None, "a job in python has no SET"
    condition = _condition(work, window)
    update = sql.SQL("UPDATE {} SET {}\n WHERE {}")
    return Part(update.format(work.target.identifier, _told(work.job.set), condition.text), condition.values)


def _write_python(connection: psycopg.Connection[Any], work: Work, window: Window, function: Function) -> int:
    """Ask the function before a row is locked; rows that were written meanwhile are asked for again, under the lock."""
    seen = _read(connection, work, window)
    wanted = _asked(work, function, seen)
    locked = _versions(connection, work, window)
    stale = {key for key, version in locked.items() if key not in seen or seen[key].version != version}
    if stale:
        fresh = {key: row for key, row in _read(connection, work, window).items() if key in stale}
        wanted = {**wanted, **_asked(work, function, fresh), **{}}
    kept = {key: values for key, values in wanted.items() if key in locked}
    return _store(connection, work, window, kept) if kept else 0


def _asked(work: Work, function: Function, rows: Mapping[tuple[str, ...], Seen]) -> dict[tuple[str, ...], Any]:
    raise NotImplementedError
