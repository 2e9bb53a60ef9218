"""``dbsec secrets get`` and ``put``: a stored value."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from dbsec.cli import output
from dbsec.cli.output import Format
from dbsec.cli.secrets import _options as options

Fields = Annotated[
    list[str], typer.Argument(metavar="FIELD=REF...", help="Each field's text, as env:NAME or file:PATH.")
]


def add(command: typer.Typer) -> None:
    """Add ``get`` and ``put``."""
    command.command()(get)
    command.command()(put)


def get(
    name: options.Name,
    source: options.Source = "",
    reveal: options.Reveal = False,
    config: options.File = None,
    form: options.As = Format.TEXT,
) -> None:
    """Say which version of a secret stands there and which fields it has; the values only with --reveal.

    Exit code 0: it is there; 3: it is missing, refused or cannot be had now.
    """
    value = options.opened(source, config).get(name)
    fields = {field: text.reveal() if reveal else str(text) for field, text in sorted(value.fields.items())}
    if form is Format.JSON:
        output.envelope("secrets get", result={"name": name, "version": value.version, "fields": fields})
        return
    print(f"{name} version {value.version}")
    for field, text in fields.items():
        print(f"  {field} = {text}")


def put(
    name: options.Name,
    fields: Fields,
    after: Annotated[
        str, typer.Option(metavar="VERSION", help="The version that this replaces; none where it is new.")
    ] = "",
    source: options.Source = "",
    config: options.File = None,
) -> None:
    """Store a version of a secret whole: all of its fields, in place of the version that was seen.

    Exit code 0: it is stored; 3: another version stands there, or it was refused; nothing is changed.
    """
    from dbsec.errors import UsageError
    from dbsec.secret import resolve

    given = [one.partition("=") for one in fields]
    wrong = [field for field, equals, _ in given if not field or not equals]
    if wrong or len({field for field, _, _ in given}) < len(given):
        raise UsageError("a field is told as FIELD=REF, each once", hint="password=file:/path/to/it")
    told = {field: resolve(reference, environ=os.environ) for field, _, reference in given}
    value = options.opened(source, config).put(name, told, after=after)
    print(f"{name} version {value.version}")
