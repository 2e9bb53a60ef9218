"""Writes rows that a verification found wrong: by the same statement as a batch, for these keys alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import sql

from dbsec import retry
from dbsec.backfill import python_rows, session, statements, trouble
from dbsec.backfill.python_rows import Key
from dbsec.backfill.statements import Work
from dbsec.backfill.trouble import Again
from dbsec.backfill.windows import Window
from dbsec.errors import ApplyError


def write(connection: psycopg.Connection[Any], work: Work, window: Window, keys: Sequence[Key]) -> int:
    """Write the rows of these keys, which lie in ``window``; each ``batch_rows`` of them are a transaction.

    ``where`` does not count: a row that is wrong may not look as if it needed the job. Locks: those rows, in the order
    of the key. Returns how many were written. Errors: ``ApplyError`` for what the server refuses, ``GaveUp`` for rows
    that stay locked.
    """
    size = work.job.batch_rows
    return sum(
        _write(connection, _only(connection, work, keys[n : n + size]), window) for n in range(0, len(keys), size)
    )


def _write(connection: psycopg.Connection[Any], work: Work, window: Window) -> int:
    def attempt() -> int:
        try:
            with session.writing(connection):
                session.settle(connection, work.job, work.limits)
                return _batch(connection, work, window)
        except psycopg.Error as exc:
            if exc.sqlstate in trouble.CONFLICTS:
                raise Again(trouble.shown(exc)) from None
            raise trouble.fatal(exc, work.job, "repair") from None

    what = f"the repair of backfill '{work.job.name}'"
    return retry.retry(attempt, on=(Again,), within_s=work.limits.give_up_s, what=what)


def _batch(connection: psycopg.Connection[Any], work: Work, window: Window) -> int:
    if work.function is not None:
        try:
            return python_rows.write(connection, work, window)
        except python_rows.Wrong as exc:
            raise ApplyError(f"function '{work.job.definition['python']}' failed on a repair: {exc}") from None
    lock, update = statements.lock(work, window), statements.update(work, window)
    connection.execute(lock.text, lock.values)
    return int(connection.execute(update.text, update.values).rowcount)


def _only(connection: psycopg.Connection[Any], work: Work, keys: Sequence[Key]) -> Work:
    """Return the work on these keys alone: the job with them in the place of ``where``."""
    target = work.target
    rows = (
        sql.SQL("({})").format(
            sql.SQL(", ").join(
                sql.Literal(text) + sql.SQL("::" + column.type) for text, column in zip(key, target.key, strict=True)
            )
        )
        for key in keys
    )
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in target.key)
    condition = sql.SQL("({}) IN ({})").format(names, sql.SQL(", ").join(rows)).as_string(connection)
    if work.function is None and isinstance(work.job.check, str):
        # Whoever mended a row since it was judged is not overruled: `set` may build on what is there.
        condition = f"{condition} AND (({work.job.check}\n) IS NOT TRUE)"
    return replace(work, job=replace(work.job, where=condition))
