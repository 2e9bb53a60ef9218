"""``dbsec backup keys``: which KEK holds the epochs of a repository, and how old they are."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.backup import _options as options
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format

if TYPE_CHECKING:
    from dbsec.backup import BackupSettings
    from dbsec.backup.key_states import State, States
    from dbsec.kms import KmsAdmin


def add(command: typer.Typer) -> None:
    """Add ``keys``."""
    command.command()(keys)


def keys(
    config: options.File = None,
    every: Annotated[bool, typer.Option("--all", help="Each key, not the count of a KEK's.")] = False,
    months: Annotated[int, typer.Option(min=1, max=120, help="Of KEKs by month: how many must be there ahead.")] = 1,
    create: Annotated[bool, typer.Option("--create", help="Make the KEKs of months that are not there.")] = False,
    admin: Annotated[
        str | None, typer.Option("--admin", metavar="URI", help="With --create: the KMS as its administrator.")
    ] = None,
    form: As = Format.TEXT,
) -> None:
    """List the keys by holder, KEK, version and age; where the KEK is one for each month, say which is not there.

    Without the KEK of a month nothing is sealed in it. --create also makes those of a repository that is yet to come.
    Exit code 0: all is well; 1: a key is none of ours, or a month will have no KEK.
    """
    from dbsec.backup.key_states import states

    settings = options.settings_of(config)
    missing = _months(settings, months, admin, create=create)
    if create:
        return
    repository = options.repository(settings)
    found = states(repository.keys)
    if form is Format.JSON:
        told = [{**asdict(one), "age_s": one.age.total_seconds()} for one in found.keys] if every else []
        output.envelope(
            "backup keys", result={"groups": _groups(found), "keys": told, "bad": list(found.bad), "missing": missing}
        )
    else:
        _tell(found, every=every)
    for name, why in found.bad:
        print(f"dbsec: {name}: {why}", file=sys.stderr)
    for one in missing:
        print(f"dbsec: {one}: without it nothing is sealed then: dbsec backup keys --create", file=sys.stderr)
    if found.bad or missing:
        raise typer.Exit(exits.FINDINGS)


def _months(settings: BackupSettings, ahead: int, admin: str | None, *, create: bool) -> list[str]:
    """Return the KEKs of months that are not there, after making them where that is wanted."""
    from dbsec.backup import months
    from dbsec.clock import SYSTEM
    from dbsec.kms import open_kms
    from dbsec.kms.uri import TENANT

    missing = []
    for role, uri in (("kms", settings.kms), ("escrow", settings.escrow)):
        if TENANT not in uri:
            continue
        lacking = months.lacking(open_kms(uri, environ=os.environ), months.periods(SYSTEM.now(), ahead))
        if create:
            chosen = (admin if role == "kms" else None) or uri
            for made in months.create(partial(_admin, chosen), lacking):
                print(f"{made.kek} is made")
        else:
            missing += [f"the KEK of '{period}' ({role}) is not there" for period in lacking]
    return missing


def _admin(uri: str, period: str) -> KmsAdmin:
    from dbsec.kms import open_admin

    return open_admin(uri, environ=os.environ, tenant=period)


def _groups(found: States) -> list[dict[str, object]]:
    from dbsec.backup.key_states import groups

    return [{**asdict(group.held), "epochs": group.epochs, "oldest": group.oldest, "newest": group.newest}
            for group in groups(found.keys)]  # fmt: skip


def _tell(found: States, *, every: bool) -> None:
    from dbsec.backup.key_states import groups

    for group in groups(found.keys):
        held = " ".join(
            filter(None, (group.held.holder, group.held.kek, group.held.version and f"version {group.held.version}"))
        )
        print(f"{group.epochs:,} epochs under {held}, of {group.oldest:%Y-%m-%d} to {group.newest:%Y-%m-%d}")
    for key in found.keys:
        if every or not key.is_epoch:
            print(_line(key))


def _line(key: State) -> str:
    held = ", ".join(f"{one.holder} {one.kek} version {one.version}" for one in key.held)
    older = f", {key.older} older wraps" if key.older else ""
    gone = ", shredded" if key.shredded else ""
    return f"{key.name}: {key.age.days} days old, {held}{older}{gone}"
