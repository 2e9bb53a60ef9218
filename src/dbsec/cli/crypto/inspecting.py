"""``dbsec crypto inspect``: what a value is and which key it names; never its plaintext."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.crypto import _options as options
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from dbsec.crypto.life.inspection import Inspected


def add(command: typer.Typer) -> None:
    """Add ``inspect``."""
    command.command()(inspect)


def inspect(
    value: Annotated[
        str | None, typer.Argument(metavar="[VALUE]", help="In hex, as psql shows it, or base64; - is stdin.")
    ] = None,
    dsn: Annotated[
        str | None, typer.Option("--dsn", metavar="REF", help="The database, for its keyring or a row: env:, file:.")
    ] = None,
    config: options.File = None,
    table: Annotated[str | None, typer.Option(metavar="SCHEMA.TABLE", help="Inspect a row of this table.")] = None,
    column: Annotated[str | None, typer.Option(metavar="COLUMN", help="And this encrypted column.")] = None,
    key: Annotated[list[str] | None, typer.Option(metavar="VALUE", help="Its primary key; once for each part.")] = None,
    prove: Annotated[bool, typer.Option("--prove", help="Of a row: try to decrypt it, and tell only whether.")] = False,
    form: As = Format.TEXT,
) -> None:
    """Tell what an encrypted value is: format, algorithm, key, the key's tenant, context, generation and state.

    Exit code 0: one of ours; 1: none, or its key is gone, or it does not open; 2: wrong usage; 3: could not tell.
    """
    with ExitStack() as stack:
        stack.enter_context(inputs.refusals())
        if table is not None or column is not None or key:
            found = _row(stack, dsn, config, table, column, key or [], prove)
        else:
            found = _value(stack, value, dsn, config)
    _tell(found, form, looked=dsn is not None)
    lost = dsn is not None and found.key_id is not None and (found.key is None or found.key.state == "destroyed")
    if found.why_not or found.opens is False or lost:
        raise typer.Exit(exits.FINDINGS)


def _value(stack: ExitStack, value: str | None, dsn: str | None, config: Path | None) -> Inspected:
    from dbsec.crypto.life import inspection
    from dbsec.crypto.opening import keyring_connect

    if value is None and sys.stdin.isatty():
        raise UsageError("no value is given", hint=r"dbsec crypto inspect '\xd511...', or a value on stdin")
    raw = inspection.of_text(inputs.stdin_text() if value in (None, "-") else str(value))
    if dsn is None:
        return inspection.inspect(raw)
    connect = keyring_connect(options.settings_of(config), options.opens(dsn), os.environ)
    return inspection.inspect(raw, stack.enter_context(closing(connect())))


def _row(
    stack: ExitStack,
    dsn: str | None,
    config: Path | None,
    table: str | None,
    column: str | None,
    key: list[str],
    prove: bool,
) -> Inspected:
    from dbsec.crypto.life import inspection
    from dbsec.crypto.opening import keyring_connect

    if dsn is None or table is None or column is None or not key:
        raise UsageError("a row is named by --dsn, --table, --column and --key")
    settings = options.settings_of(config)
    connect = options.opens(dsn)
    session = stack.enter_context(closing(connect()))
    keyring = stack.enter_context(closing(keyring_connect(settings, connect, os.environ)()))
    envelope = options.envelope(settings, dsn) if prove else None
    return inspection.of_row(session, settings.of(table, column), key, envelope, keyring)


def _tell(found: Inspected, form: Format, *, looked: bool) -> None:
    if form is Format.JSON:
        output.envelope("crypto inspect", result=found.to_json())
        return
    if found.why_not:
        print(f"not an encrypted value of dbsec ({found.size} bytes): {found.why_not}")
        return
    print(f"{found.what}, format {found.version}: {found.size} bytes for {found.plaintext_size}")
    if found.wrapped_size is not None:
        print(f"  it carries its own DEK, wrapped in {found.wrapped_size} bytes")
    if found.key_id is not None and found.key is None:
        print(f"  key {found.key_id}{', which the keyring does not have' if looked else ''}")
    elif found.key is not None:
        row = found.key
        print(f"  key {row.id}: {row.state}, {row.purpose} of '{row.context}', generation {row.generation}")
        print(f"  tenant '{row.tenant}', wrapped by {row.kek} version {row.kek_version}")
    if found.opens is not None:
        print("  it decrypts for its row" if found.opens else "  it does NOT decrypt for its row")
