"""``dbsec backup expire``: delete what [backup.retention] no longer wants; without --apply only tell what."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.backup import _options as options
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from dbsec.backup.expiring import Expired
    from dbsec.backup.expiry_plan import Plan
    from dbsec.store.bucket import Lock, Locks


def add(command: typer.Typer) -> None:
    """Add ``expire``."""
    command.command()(expire)


def expire(
    config: options.File = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="Also the keys that no object names: reads the header of each.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go, as without --apply.")] = False,
    apply: options.Apply = False,
    form: As = Format.TEXT,
) -> None:
    """Delete backups, WAL and pieces that neither [backup.retention] nor [objectives] recovery_window_days wants.

    What a kept backup builds on stays, and all WAL from the start of the recovery window on. A run that was killed is
    ended by the next. Exit code 0: done, or nothing to do; 1: the store did not let go of something, or a backup does
    not open; 2: wrong usage; 3: could not tell.
    """
    from dbsec.backup import expiring, expiry_plan
    from dbsec.backup import settings as tables
    from dbsec.clock import SYSTEM
    from dbsec.store.bucket import locks_of

    if dry_run and apply:
        raise UsageError("--dry-run and --apply are one or the other")
    loaded = options.config_of(config)
    settings = tables.of(loaded)
    promised = timedelta(days=loaded.objectives.recovery_window_days)
    with inputs.refusals(), output.progress() as progress:
        repository = options.repository(settings)
        locks = locks_of(settings.store, environ=os.environ)
        if not apply:
            found = expiry_plan.plan(repository, settings.retention, promised=promised, now=SYSTEM.now())
            _tell_plan(
                found, {one.id: str(lock) for one in found.retained.expire if (lock := _lock(locks, one.id))}, form
            )
            return
        patience_s = settings.patience.total_seconds()
        done = expiring.expire(
            repository,
            settings.retention,
            promised=promised,
            keys=keys,
            locks=locks,
            patience_s=patience_s,
            progress=progress,
        )
    _tell(done, form)
    _tell_versions(settings.store)
    if done.locked or done.keys_kept:
        raise typer.Exit(exits.FINDINGS)


def _lock(locks: Locks | None, backup: str) -> Lock | None:
    from dbsec.backup.catalog import description_name

    return locks.of(description_name(backup)) if locks is not None else None


def _tell_plan(found: Plan, locked: dict[str, str], form: Format) -> None:
    judged = found.retained
    if form is Format.JSON:
        told = {
            "applied": False,
            "keep": {id: list(why) for id, why in judged.keep.items()},
            "expire": [one.id for one in judged.expire],
            "locked": locked,
            "leftovers": [*found.ended, *found.leftovers],
            "taking": list(found.taking),
            "objects": found.objects,
            "stored_bytes": found.stored_bytes,
            "wal": found.wal,
            "wal_bytes": found.wal_bytes,
            "pieces": found.pieces,
            "wal_since": str(judged.since) if judged.since is not None else None,
        }
        output.envelope("backup expire", result=told)
        return
    for id, why in judged.keep.items():
        print(f"keep    {id}  {'; '.join(why)}")
    for one in judged.expire:
        if one.id in locked:
            print(f"keep    {one.id}  {locked[one.id]}, with what it builds on")
        else:
            print(f"delete  {one.id}  {one.stopped}")
    for id in found.ended:
        print(f"delete  {id}  of a month that was shredded")
    for id in found.leftovers:
        print(f"delete  {id}  no backup: broken off, or half deleted")
    for id in found.taking:
        print(f"keep    {id}  being taken, or broken off a short time ago")
    since = f"all of it from {judged.since} on stays" if judged.since is not None else "all of it stays"
    print(f"WAL: {found.wal:,} objects ({found.wal_bytes / 1e6:,.1f} MB) and {found.pieces:,} pieces go; {since}")
    print(
        f"{found.objects:,} objects of backups ({found.stored_bytes / 1e6:,.1f} MB) would be deleted: --apply does it"
    )


def _tell(done: Expired, form: Format) -> None:
    from dbsec.clock import rfc3339

    if form is Format.JSON:
        until = rfc3339(done.until) if done.until else None
        output.envelope("backup expire", result={"applied": True, **asdict(done), "until": until})
        return
    for id in done.backups:
        print(f"deleted {id}")
    for id in done.leftovers:
        print(f"deleted what was left of {id}")
    print(
        f"{done.objects:,} objects of backups, {done.wal:,} of WAL, {done.pieces:,} pieces, {done.keys:,} keys deleted"
    )
    if done.keys_kept:
        print(f"dbsec: no key was deleted: {done.keys_kept}", file=sys.stderr)
    for id, why in done.kept.items():
        print(f"kept    {id}  {why}")
    for one in done.locked[:20]:
        print(f"dbsec: kept: {one}", file=sys.stderr)
    if done.locked:
        when = f"until {rfc3339(done.until)}" if done.until else "until they are released"
        count = len(done.locked) + done.untold
        print(f"dbsec: {count:,} objects could not be deleted, {when}: run this again then", file=sys.stderr)


def _tell_versions(store: str) -> None:
    """Say that a bucket keeps what was deleted."""
    from dbsec.store.bucket import ask_bucket

    if store.startswith("s3:") and ask_bucket(store, environ=os.environ).versioned:
        print(
            "dbsec: the bucket keeps versions: what was deleted is paid for until a lifecycle rule ends it",
            file=sys.stderr,
        )
