"""``dbsec migrate new``: write the files of a change in steps that the running release survives."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec import discovery
from dbsec.cli import output
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As, Dsn, Schema, Version
from dbsec.cli.output import Format
from dbsec.errors import ApplyError, UsageError
from dbsec.migrations.expand_contract import kinds

if TYPE_CHECKING:
    from dbsec.migrations.expand_contract.ask import Ask
    from dbsec.migrations.expand_contract.place import Place
    from dbsec.migrations.schema.model import Table

APP = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)
Kind = StrEnum("Kind", {n.upper(): n.replace("_", "-") for n in discovery.names_in(kinds)})  # type: ignore[misc]
_SIDE = "NAME [TYPE] [= SQL]"


@APP.callback()
def _group() -> None:
    """Keep ``expand-contract`` a word of its own while it is the only one."""


@APP.command("expand-contract")
def expand_contract(
    kind: Annotated[Kind, typer.Argument(help="What changes.")],
    table: Annotated[str, typer.Option(metavar="SCHEMA.TABLE", help="The table.")],
    new: Annotated[list[str], typer.Option("--new", metavar=_SIDE, help="A column that comes; again for more.")],
    old: Annotated[
        list[str] | None, typer.Option("--old", metavar=_SIDE, help="A column that goes in the end; again for more.")
    ] = None,
    default: Annotated[str, typer.Option(metavar="SQL", help="add-not-null-column: the default of rows to come.")] = "",
    python: Annotated[
        str, typer.Option(metavar="MODULE:FUNCTION", help="encrypt-column: what encrypts a batch of rows.")
    ] = "",
    lookup: Annotated[
        str, typer.Option(metavar="NAME", help="encrypt-column: its blind index, or --new's name if deterministic.")
    ] = "",
    check: Annotated[
        str, typer.Option(metavar="MODULE:FUNCTION", help="encrypt-column: what decrypts and compares, to verify.")
    ] = "",
    allow_low_entropy: Annotated[
        bool, typer.Option("--allow-low-entropy", help="encrypt-column: look-ups that frequencies give away.")
    ] = False,
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")] = Path("db/migrations"),
    schema: Schema = None,
    dsn: Dsn = None,
    pg_version: Version = None,
    form: As = Format.TEXT,
) -> None:
    """Write expand, backfill and contract of a change, each with its way back; the schema tells what hangs on it.

    The SQL of a column reads the columns of the other side: --old "name = first || ' ' || last"
    --new "first text = split_part(name, ' ', 1)" --new "last text = split_part(name, ' ', 2)".
    """
    inputs.need_parser()
    from dbsec.migrations import expand_contract as writer
    from dbsec.migrations.expand_contract import files
    from dbsec.migrations.expand_contract.ask import Ask, side, table_name

    ask = Ask(
        table_name(table),
        tuple(map(side, old or ())),
        tuple(map(side, new)),
        default.strip(),
        python,
        lookup.strip(),
        check,
    )
    place = _place(ask, schema, dsn, pg_version)
    if ask.lookup and not allow_low_entropy:
        _judge(ask, dsn)
    change = writer.planned(str(kind), place, ask)
    made = files.named(change, folder)
    if wrong := writer.problems(made, place.schema, major=place.major):
        raise ApplyError(f"nothing is written, for the linter refuses it: {wrong[0]}", hint="tell the makers of dbsec")
    files.write(made)
    _tell(list(made), change.notes, shlex.join([str(folder), "--dsn", dsn or "env:DSN"]), form)


def _place(ask: Ask, file: Path | None, dsn: str | None, pg_version: str | None) -> Place:
    """Read the table and all that hangs on it from a dump or a server."""
    from dbsec.migrations.expand_contract import definitions
    from dbsec.migrations.expand_contract.place import place_of
    from dbsec.migrations.schema.catalog import from_catalog

    if (file is None) == (dsn is None):
        raise UsageError("the schema tells what hangs on the column", hint="--dsn env:NAME, or --schema schema.sql")
    if dsn is not None:
        with inputs.connected(dsn) as connection:
            schema = from_catalog(connection)
            table = _known(schema.table(ask.table), ask)
            found = definitions.from_catalog(connection, table.name)
    else:
        assert file is not None
        read, _ = inputs.schema_of(file, None)
        assert read is not None
        schema, table = read, _known(read.table(ask.table), ask)
        found = definitions.from_dump(inputs.schema_text(file), table, source=str(file))
    return place_of(schema, found, table, major=inputs.major_of(pg_version, schema, 17))


def _judge(ask: Ask, dsn: str | None) -> None:
    """Refuse look-ups of a column whose frequencies tell its values. Errors: ``ModeRefused``."""
    from psycopg.sql import Identifier

    from dbsec.crypto import planner, statistics

    names = [ask.table.schema or "public", ask.table.name, *(side.name for side in ask.old)]
    column = ".".join(Identifier(name).as_string() for name in names)
    try:
        if dsn is None:
            raise statistics.NoStatistics("a dump has no statistics", hint=f"dbsec crypto plan {column} --dsn REF")
        with inputs.connected(dsn) as connection:
            planner.refuse_low_entropy(statistics.read(connection, column))
    except statistics.NoStatistics as exc:
        print(f"dbsec: whether frequencies tell its values is not known: {exc}; {exc.hint}", file=sys.stderr)


def _known(table: Table | None, ask: Ask) -> Table:
    if table is None:
        raise UsageError(f"there is no table '{ask.table}'", hint="--table SCHEMA.TABLE, as the schema has it")
    return table


def _tell(paths: list[Path], notes: tuple[str, ...], arguments: str, form: Format) -> None:
    if form is Format.JSON:
        output.envelope("migrate new", result={"files": [str(path) for path in paths], "notes": list(notes)})
        return
    for path in paths:
        print(path)
    for note in notes:
        print(f"dbsec: {note}", file=sys.stderr)
    print(f"  next: dbsec migrate plan {arguments}", file=sys.stderr)
