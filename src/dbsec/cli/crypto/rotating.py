"""``dbsec crypto rotate-dek``: a new DEK encrypts, the old one still decrypts."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import output
from dbsec.cli.crypto import _options as options
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dbsec.crypto.life.rotation import Rotated
    from dbsec.crypto.store import KeyRow


def add(command: typer.Typer) -> None:
    """Add ``rotate-dek``."""
    command.command("rotate-dek")(rotate_dek)


def rotate_dek(
    dsn: options.Dsn,
    config: options.File = None,
    context: Annotated[str | None, typer.Option(metavar="NAME", help="Keys of this context: app.users.")] = None,
    tenant: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Of this tenant; several may be told.")
    ] = None,
    due: Annotated[bool, typer.Option("--due", help="Only keys past [crypto] cadence or 2^31 uses.")] = False,
    apply: options.Apply = False,
    form: As = Format.TEXT,
) -> None:
    """Let a new generation of DEKs encrypt; values under the old one still decrypt.

    Running processes follow within their TTL. No data row is written: dbsec crypto reencrypt does that, where it is
    wanted. With --due, a run that was broken off goes on where it was. Exit code 0: done; 3: broken off.
    """
    from dbsec.crypto.life import rotation
    from dbsec.crypto.opening import keyring_connect, opened_kms

    settings = options.settings_of(config)
    connect = keyring_connect(settings, options.opens(dsn), os.environ)
    cadence = settings.cadence if due else None
    with closing(connect()) as session, inputs.refusals():
        wanted = rotation.candidates(session, tenants=tenant or (), context=context, only_due=cadence)
    if not wanted and not due:
        raise UsageError("no active key of that tenant and context", hint="dbsec crypto keys --dsn ...")
    if not apply:
        _tell_plan(wanted, form)
        return
    done: list[Rotated] = []
    try:
        with inputs.refusals(), output.progress() as progress:
            for one in rotation.rotate(connect, opened_kms(settings, os.environ), wanted, progress=progress):
                done.append(one)
    finally:
        _tell(done, form, settings.ttl.total_seconds())


def _tell_plan(wanted: Sequence[KeyRow], form: Format) -> None:
    if form is Format.JSON:
        shown = [{"tenant": row.tenant, "context": row.context, "id": row.id} for row in wanted]
        output.envelope("crypto rotate-dek", result={"applied": False, "keys": shown})
        return
    for row in wanted:
        print(f"key {row.id} of '{row.tenant}' '{row.context}', generation {row.generation}: {row.used:,} uses")
    print(f"{len(wanted)} keys would get a successor: --apply does it")


def _tell(done: Sequence[Rotated], form: Format, ttl_s: float) -> None:
    if form is Format.JSON:
        shown = [asdict(one) for one in done]
        output.envelope("crypto rotate-dek", result={"applied": True, "keys": shown, "others_follow_within_s": ttl_s})
        return
    for one in done:
        print(
            f"'{one.tenant}' '{one.context}': key {one.new} (generation {one.generation}) encrypts; {one.old} retired"
        )
    print(f"{len(done)} keys rotated; processes that run follow within {ttl_s:g} s")
