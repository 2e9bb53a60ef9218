"""A backfill as one migration of a release: run, verified, forgotten on the way back."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import datetime
from typing import Any

import psycopg

from dbsec import backfill
from dbsec.backfill import Job, State
from dbsec.migrations.runner.files import Migration
from dbsec.migrations.runner.obstacle import Block, Obstacle
from dbsec.migrations.runner.target import Target


def run(target: Target, connection: psycopg.Connection[Any], migration: Migration, workers: int) -> list[Obstacle]:
    """Walk the table to its end from where it stopped, then verify all of it. Errors: those of ``backfill.run``."""
    job = Job.load(migration.path)
    with target.throttled(job) if target.throttled else nullcontext() as throttle:
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
    """Verify a backfill now, unless its last verification is still good; an obstacle where rows differ."""
    from dbsec.backfill.verify import verified, verify

    job = Job.load(migration.path)
    if verified(connection, job.name, job.digest):
        return []
    target.progress.step(f"verifies '{job.name}'")
    found = verify(connection, job, progress=target.progress)
    return [] if verified(connection, job.name, job.digest) else [_mismatches(migration, job, found.mismatches)]


def unverified(connection: psycopg.Connection[Any], migration: Migration, since: datetime | None) -> Obstacle | None:
    """Tell why a backfill counts as not verified; ``since``: when a client of the old release was last there.

    Such a client may have written rows after they were verified.
    """
    from dbsec.backfill.verify import verified

    job = Job.load(migration.path)
    if not verified(connection, job.name, job.digest):
        return Obstacle(
            Block.NOT_VERIFIED,
            f"backfill '{job.name}' has not passed its verification",
            f"dbsec backfill verify {migration.path}",
            migration.number,
            forcible=True,
        )
    at = backfill.status(connection, job.name).verified_at
    if since is not None and at is not None and at < since:
        return Obstacle(
            Block.NOT_VERIFIED,
            f"backfill '{job.name}' was verified {at:%Y-%m-%d %H:%M:%S%z}, and the old release wrote until later",
            f"dbsec backfill verify {migration.path}",
            migration.number,
            forcible=True,
        )
    return None


def forget(connection: psycopg.Connection[Any], migration: Migration) -> None:
    """Let a later ``up`` walk the table anew: its rows are no longer filled. Errors: ``UsageError`` while it runs."""
    job = Job.load(migration.path)
    if any(one.name == job.name for one in backfill.statuses(connection)):
        backfill.forget(connection, job.name)


def _mismatches(migration: Migration, job: Job, rows: object) -> Obstacle:
    count = len(rows) if hasattr(rows, "__len__") else rows
    return Obstacle(
        Block.NOT_VERIFIED,
        f"backfill '{job.name}': {count} rows are not what it makes of them",
        f"dbsec backfill verify --repair {migration.path}",
        migration.number,
    )


__all__ = ["check", "forget", "run", "unverified"]
