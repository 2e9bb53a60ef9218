"""Copies the rows of a table into its shadow, a window of the key at a time, and proves that both are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import errors, sql
from psycopg.sql import Composable

from dbsec.backfill import session, target, windows
from dbsec.backfill.job import Job
from dbsec.backfill.session import Limits
from dbsec.backfill.target import Target
from dbsec.backfill.windows import Page, Window
from dbsec.backfill.worker import Waits
from dbsec.clock import Clock
from dbsec.migrations.names import Name
from dbsec.migrations.shadow.facts import Facts
from dbsec.progress import Progress
from dbsec.retry import retry

_BATCH = 2000
_TRIES_S = 600
# A row whose trigger writes it at the same moment may meet a unique key beside the primary one.
_AGAIN = (errors.LockNotAvailable, errors.DeadlockDetected, errors.QueryCanceled, errors.UniqueViolation)


def check(connection: psycopg.Connection[Any], facts: Facts) -> None:
    """Check that its rows can be walked by its key. Errors: ``UsageError``; ``ApplyError`` where rows are hidden."""
    job = _job(facts)
    with connection.transaction():
        session.settle(connection, job, Limits())
        target.find(connection, job)


def copied(
    connection: psycopg.Connection[Any], facts: Facts, *, throttle: Waits | None, progress: Progress, clock: Clock
) -> int:
    """Copy what was there when the triggers came; returns the rows that were copied, and not there already.

    A row is locked against DELETE (FOR KEY SHARE) until its copy is committed, for else its ghost would stay; UPDATE
    goes on, and its trigger has the last word. It may be run again from the first row at any time.
    """
    job = _job(facts)
    with connection.transaction():
        session.settle(connection, job, Limits())
        found = target.find(connection, job)
        last = _last(connection, found)
    done = 0
    for page in _pages(connection, facts, found, last, throttle, progress):
        done += retry(
            lambda page=page: _copy(connection, facts, found, page),  # type: ignore[misc] # bound in its own turn
            on=_AGAIN,
            within_s=_TRIES_S,
            what="a batch of the copy",
            clock=clock,
        )
        progress.step(f"{facts.name}: {done:,} rows copied") if page.rows < _BATCH else None
    return done


def differing(connection: psycopg.Connection[Any], facts: Facts, *, progress: Progress) -> int:
    """Count the rows that are not the same in both tables, each window in one look at both."""
    job = _job(facts)
    with connection.transaction():
        session.settle(connection, job, Limits())
        found = target.find(connection, job)
        last = _last(connection, found)
    wrong = 0
    for page in _pages(connection, facts, found, last, None, progress):
        inside = windows.inside(found, page.window)
        names = _listed([row[0] for row in facts.columns])
        query = sql.SQL(
            "SELECT count(*) FROM (SELECT {key}, ROW({all})::text AS row FROM {table} WHERE {inside}) AS one"
            " FULL JOIN (SELECT {key}, ROW({all})::text AS row FROM {shadow} WHERE {inside}) AS other USING ({key})"
            ' WHERE one.row COLLATE "C" IS DISTINCT FROM other.row COLLATE "C"'
        ).format(
            key=windows.columns(found),
            all=names,
            table=_named(facts.name),
            shadow=_named(facts.shadow),
            inside=inside.text,
        )
        with connection.transaction():
            session.settle(connection, job, Limits())
            row = connection.execute(query, [*inside.values, *inside.values]).fetchone()
        wrong += row[0] if row is not None else 0
    return wrong


def _pages(
    connection: psycopg.Connection[Any],
    facts: Facts,
    found: Target,
    last: list[str] | None,
    throttle: Waits | None,
    progress: Progress,
) -> Iterator[Page]:
    low: list[str] | None = None
    while last is not None:
        if throttle is not None:
            throttle.wait(progress.step, go_on=lambda: True)
        with connection.transaction():
            session.settle(connection, _job(facts), Limits())
            page = windows.page(connection, found, Window(low, last), _BATCH)
        if not page.rows:
            return
        yield page
        low = list(page.window.high)


def _copy(connection: psycopg.Connection[Any], facts: Facts, found: Target, page: Page) -> int:
    inside = windows.inside(found, page.window)
    query = sql.SQL(
        "INSERT INTO {shadow} ({columns}) OVERRIDING SYSTEM VALUE"
        " SELECT {columns} FROM ONLY {table} WHERE {inside} ORDER BY {key} FOR KEY SHARE ON CONFLICT ({key}) DO NOTHING"
    ).format(
        shadow=_named(facts.shadow),
        columns=_listed(facts.written),
        table=_named(facts.name),
        inside=inside.text,
        key=windows.columns(found),
    )
    with connection.transaction():
        session.settle(connection, _job(facts), Limits())
        return connection.execute(query, inside.values).rowcount


def _last(connection: psycopg.Connection[Any], found: Target) -> list[str] | None:
    back = sql.SQL(", ").join(sql.SQL("{} DESC").format(column.identifier) for column in found.key)
    query = sql.SQL("SELECT {} FROM {} ORDER BY {} LIMIT 1").format(windows.texts(found), found.identifier, back)
    row = connection.execute(query, []).fetchone()  # its names are for a query with placeholders
    return list(row[0]) if row is not None else None


def _named(name: Name) -> Composable:
    return target.named(name.schema or "public", name.name)


def _listed(names: Sequence[str]) -> Composable:
    return sql.SQL(", ").join(target.named(name) for name in names)


def _job(facts: Facts) -> Job:
    """What the windows of a backfill want to know: table and key. No backfill is run, hence nothing is set."""
    key = tuple('"' + name.replace('"', '""') + '"' for name in facts.key_names)
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in facts.name if part)
    homes = tuple(dict.fromkeys(home for _, _, home in facts.key if home != "pg_catalog"))
    return Job(name=f"rewrite {facts.name}", table=quoted, key=key, set="nothing = NULL", search_path=homes)
