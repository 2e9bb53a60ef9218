"""``dbsec crypto migrate-from``: columns that another library encrypted, into ours."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.crypto import _options as options
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format


def add(command: typer.Typer) -> None:
    """Add ``migrate-from``."""
    command.command("migrate-from")(migrate_from)


def migrate_from(
    old: Annotated[
        str, typer.Argument(metavar="FORMAT", help="fernet, pgcrypto, sqlalchemy-utils-aes, -gcm, -fernet.")
    ],
    table: Annotated[str, typer.Argument(metavar="SCHEMA.TABLE", help="The table, as [[crypto.columns]] has it.")],
    column: Annotated[str, typer.Argument(metavar="COLUMN", help="The column that is to hold our values.")],
    dsn: options.Dsn,
    old_key: Annotated[
        list[str],
        typer.Option("--old-key", metavar="REF", help="The old key, as file:PATH or env:NAME; several are tried."),
    ],
    origin: Annotated[
        str | None, typer.Option("--from", metavar="COLUMN", help="Where the old values are; by default the same.")
    ] = None,
    padding: Annotated[str, typer.Option(help="Of sqlalchemy-utils-aes: naive, pkcs5, zeroes, oneandzeroes.")] = "",
    config: options.File = None,
    workers: options.Workers = 1,
    leave_unreadable: options.Leave = False,
    apply: options.Apply = False,
    form: As = Format.TEXT,
) -> None:
    """Read what another library has encrypted, encrypt it as the column is declared, and compare every row.

    The old key stays in this process: what pgcrypto made is not decrypted in SQL. The old column stays as it is; while
    a release still writes it, the phases of dbsec migrate new expand-contract encrypt-column keep both in step. Exit
    code 0: every row is right; 1: some are left or wrong; 3: broken off, the same goes on.
    """
    from dbsec.cli.crypto import _walking as walking
    from dbsec.crypto.life import legacy
    from dbsec.secret import resolve

    reader = legacy.reader(old, [resolve(one, environ=os.environ) for one in old_key], padding)
    asked = walking.Asked(table, column, origin, reader, workers, leave_unreadable, True)
    with ExitStack() as stack:
        stack.enter_context(inputs.refusals())
        progress = stack.enter_context(output.progress())
        work = walking.Walk(options.settings_of(config), dsn, asked, config)
        if not apply:
            walking.tell_plan("migrate-from", work.name, work.remaining(), form)
            return
        done = work.run(progress)
    walking.tell("migrate-from", done, form)
    if not done.clean:
        raise typer.Exit(exits.FINDINGS)
