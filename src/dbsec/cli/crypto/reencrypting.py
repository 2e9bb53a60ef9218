"""``dbsec crypto reencrypt``: the rows of a column under the key that encrypts now."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbsec.cli import exits, output
from dbsec.cli.crypto import _options as options
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format

if TYPE_CHECKING:
    from dbsec.crypto import CryptoSettings
    from dbsec.crypto.life.retiring import Retired


def add(command: typer.Typer) -> None:
    """Add ``reencrypt``."""
    command.command()(reencrypt)


def reencrypt(
    table: Annotated[str, typer.Argument(metavar="SCHEMA.TABLE", help="The table, as [[crypto.columns]] has it.")],
    column: Annotated[str, typer.Argument(metavar="COLUMN", help="The encrypted column.")],
    dsn: options.Dsn,
    config: options.File = None,
    origin: Annotated[
        str | None,
        typer.Option("--from", metavar="COLUMN", help="Where the values are now: in clear, or an encrypted column."),
    ] = None,
    workers: options.Workers = 1,
    leave_unreadable: options.Leave = False,
    verify: Annotated[bool, typer.Option("--verify", help="Judge every row afterwards.")] = False,
    destroy_retired: Annotated[
        bool, typer.Option("--destroy-retired", help="With --apply: end the retired keys that no row uses.")
    ] = False,
    apply: options.Apply = False,
    form: As = Format.TEXT,
) -> None:
    """Bring the rows of a column to the active DEK, or encrypt them for the first time, while the service goes on.

    It waits while the service suffers ([migrations.backfill]), resumes at the batch, and reads a row again that was
    written meanwhile. Exit code 0: no row needs it; 1: some are left or wrong; 3: broken off, the same goes on.
    """
    from dbsec.cli.crypto import _walking as walking

    asked = walking.Asked(table, column, origin, None, workers, leave_unreadable, verify)
    settings = options.settings_of(config)
    with ExitStack() as stack:
        stack.enter_context(inputs.refusals())
        progress = stack.enter_context(output.progress())
        work = walking.Walk(settings, dsn, asked, config)
        if not apply:
            walking.tell_plan("reencrypt", work.name, work.remaining(), form)
            return
        done = work.run(progress)
        retired = _retired(settings, dsn, table, column)
        ended = _end(settings, dsn, retired) if destroy_retired else []
    walking.tell("reencrypt", done, form, retired=[_shown(one) for one in retired], destroyed=ended)
    _tell_retired(retired, ended, form)
    if not done.clean:
        raise typer.Exit(exits.FINDINGS)


def _retired(settings: CryptoSettings, dsn: str, table: str, column: str) -> list[Retired]:
    from dbsec.crypto.life import retiring
    from dbsec.crypto.opening import keyring_connect

    connect = options.opens(dsn)
    context = settings.of(table, column).field.context
    with closing(connect()) as session, closing(keyring_connect(settings, connect, os.environ)()) as keyring:
        return retiring.retired(session, keyring, settings.declared, context, ttl=settings.ttl)


def _end(settings: CryptoSettings, dsn: str, found: list[Retired]) -> list[int]:
    from dbsec.crypto.life import retiring
    from dbsec.crypto.opening import keyring_connect

    with closing(keyring_connect(settings, options.opens(dsn), os.environ)()) as keyring:
        return retiring.destroy(keyring, [one for one in found if not one.why_not])


def _shown(one: Retired) -> dict[str, Any]:
    row = one.row
    return {"id": row.id, "tenant": row.tenant, "generation": row.generation, "values": one.values, "why": one.why_not}


def _tell_retired(found: list[Retired], ended: list[int], form: Format) -> None:
    if form is Format.JSON:
        return
    for one in found:
        what = "destroyed" if one.row.id in ended else one.why_not or "no value is under it"
        print(f"retired key {one.row.id} of '{one.row.tenant}' '{one.row.context}': {what}")
    if any(not one.why_not for one in found) and not ended:
        print(
            "dbsec: keys that no row of this database uses may be destroyed: a backup of before brings its own keyring,"
            " but a table restored alone from it would be lost\n  try: the same with --destroy-retired",
            file=sys.stderr,
        )
