"""A backfill as one migration of a release: run, verified, forgotten on the way back."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any

import psycopg

from dbsec import backfill
from dbsec.backfill import Job, State
from dbsec.backfill.verify import remaining, verified, verify
from dbsec.backfill.worker import Waits
from dbsec.migrations.runner.files import Migration
from dbsec.migrations.runner.obstacle import Block, Obstacle
from dbsec.migrations.runner.target import Target


def run(target: Target, connection: psycopg.Connection[Any], migration: Migration, workers: int) -> list[Obstacle]:
    """Walk the table to its end from where it stopped, then verify all of it. Errors: those of ``backfill.run``."""
    job = Job.load(migration.path)
    with _throttled(target, job) as throttle:
        done = backfill.run(
            target.connect,
            job,
            workers=workers,
            throttle=throttle,
            progress=target.progress,
            clock=target.clock,
            observer=target.observer,
        )
    if done.state is not State.DONE:
        message = f"backfill '{job.name}' is {done.state}"
        return [Obstacle(Block.INTERRUPTED, message, f"dbsec backfill resume {job.name}", migration.number)]
    return check(target, connection, migration)


def check(target: Target, connection: psycopg.Connection[Any], migration: Migration) -> list[Obstacle]:
    """Verify a backfill now; an obstacle where rows are not what it makes of them."""
    job = Job.load(migration.path)
    target.progress.step(f"verifies '{job.name}'")
    with _throttled(target, job) as throttle:
        found = verify(connection, job, progress=target.progress, throttle=throttle, clock=target.clock)
    if found.clean:
        return []
    message = f"backfill '{job.name}': {found.off:,} of {found.rows:,} rows are not what it makes of them"
    hint = f"dbsec backfill verify --repair {migration.path}"
    return [Obstacle(Block.NOT_VERIFIED, message, hint, migration.number)]


def unverified(
    connection: psycopg.Connection[Any], migration: Migration, since: datetime | None, *, thorough: bool
) -> Obstacle | None:
    """Tell why a backfill counts as not verified; ``since``: when a client of the old release was last there.

    Such a client may have written rows after they were verified. ``thorough``: the rows are counted once more, which
    reads the table; for a job in python that sees only what ``where`` finds, so that the time counts too.
    """
    job = Job.load(migration.path)
    hint = f"dbsec backfill verify {migration.path}"
    message = ""
    if not verified(connection, job.name, job.digest):
        message = "has not passed its verification"
    elif thorough and (rows := remaining(connection, job)):
        message = f"was verified, and {rows:,} rows are not what it makes of them now: somebody writes past it"
    elif job.python is not None and since is not None:
        at = backfill.status(connection, job.name).verified_at
        if at is None or at < since:
            message = f"was verified before a client of the old release was last seen, {since:%Y-%m-%d %H:%M:%S%z}"
    if not message:
        return None
    return Obstacle(Block.NOT_VERIFIED, f"backfill '{job.name}' {message}", hint, migration.number, forcible=True)


def forget(connection: psycopg.Connection[Any], migration: Migration) -> None:
    """Let a later ``up`` walk the table anew: its rows are no longer filled. Errors: ``UsageError`` while it runs."""
    job = Job.load(migration.path)
    if any(one.name == job.name for one in backfill.statuses(connection)):
        backfill.forget(connection, job.name)


def _throttled(target: Target, job: Job) -> AbstractContextManager[Waits | None]:
    return target.throttled(job) if target.throttled else nullcontext()


__all__ = ["check", "forget", "run", "unverified"]
