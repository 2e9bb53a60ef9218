"""``dbsec crypto rewrap``: DEKs under the newest KEK, without a write to any row of data."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.crypto import _options as options
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format

if TYPE_CHECKING:
    from dbsec.crypto import CryptoSettings
    from dbsec.crypto.life.rewrap import AdminOf, Rewrapped
    from dbsec.kms import KmsAdmin


def add(command: typer.Typer) -> None:
    """Add ``rewrap``."""
    command.command()(rewrap)


def rewrap(
    dsn: options.Dsn,
    config: options.File = None,
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="Keys of this tenant alone.")] = None,
    rotate_kek: Annotated[bool, typer.Option("--rotate-kek", help="Add a version to each KEK first.")] = False,
    admin: options.Admin = None,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Keys in one transaction.")] = 500,
    apply: options.Apply = False,
    form: As = Format.TEXT,
) -> None:
    """Wrap each DEK under the newest version of its KEK; values stay as they are, and stay readable meanwhile.

    Each new wrapping is unwrapped and compared before it replaces the old one. A run that was broken off goes on where
    it was. Exit code 0: all are under the newest; 1: some could not be; 3: the KMS went away, or could not tell.
    """
    from dbsec.crypto.life import rewrap as life
    from dbsec.crypto.opening import keyring_connect, opened_kms

    settings = options.settings_of(config)
    kms, connect = opened_kms(settings, os.environ), keyring_connect(settings, options.opens(dsn), os.environ)
    if not apply:
        with closing(connect()) as session, inputs.refusals():
            wanted = life.stale(session, kms, tenant=tenant)
        _tell_plan(len(wanted), rotate_kek, form)
        return
    admin_of = _admins(settings, admin) if rotate_kek else None
    with inputs.refusals(), output.progress() as progress:
        done = life.rewrap(connect, kms, tenant=tenant, admin_of=admin_of, batch=batch, progress=progress)
    _tell(done, form)
    if done.failed:
        raise typer.Exit(exits.FINDINGS)


def _admins(settings: CryptoSettings, admin: str | None) -> AdminOf:
    def of(tenant: str) -> KmsAdmin:
        return options.admin_of(settings, admin, tenant)

    return of


def _tell_plan(stale: int, rotate: bool, form: Format) -> None:
    if form is Format.JSON:
        output.envelope("crypto rewrap", result={"applied": False, "stale": stale, "rotate_kek": rotate})
        return
    print(f"{stale:,} keys are under an older version of their KEK")
    if rotate:
        print("each KEK would get a new version, and every key be wrapped under it")
    print("--apply does it; no row of data is written")


def _tell(done: Rewrapped, form: Format) -> None:
    if form is Format.JSON:
        output.envelope("crypto rewrap", result={"applied": True, **asdict(done)})
    else:
        print(f"{done.rewrapped:,} keys rewrapped, {done.kept:,} were under the newest KEK already")
        for kek in done.rotated:
            print(f"  {kek} has a new version")
    for key_id, why in done.failed:
        print(f"dbsec: key {key_id} was not rewrapped: {why}", file=sys.stderr)
