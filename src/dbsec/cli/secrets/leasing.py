"""``dbsec secrets lease``, ``rotate`` and ``revoke``: credentials of databases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import output
from dbsec.cli.output import Format
from dbsec.cli.secrets import _options as options

if TYPE_CHECKING:
    from dbsec.secrets import Lease, Provider

Role = Annotated[str, typer.Argument(metavar="ROLE", help="A role of the database engine.")]


def add(command: typer.Typer) -> None:
    """Add ``lease``, ``rotate`` and ``revoke``."""
    command.command()(lease)
    command.command()(rotate)
    command.command()(revoke)


def lease(
    role: Role,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it to this file, as JSON for its owner alone.")
    ] = None,
    source: options.Source = "",
    reveal: options.Reveal = False,
    config: options.File = None,
    form: options.As = Format.TEXT,
) -> None:
    """Have a credential issued, or read that of a static role. The password goes to --to, or is printed by --reveal.

    Exit code 0: it was issued; 3: it was refused or cannot be had now.
    """
    from dbsec.errors import UsageError

    if to is None and not reveal:
        raise UsageError("nobody would see the password of this credential", hint="--to FILE, or --reveal to print it")
    if to is not None and not to.absolute().parent.is_dir():
        raise UsageError(f"'{to.parent}' is no folder", hint=f"mkdir -p {to.parent}")
    provider = options.opened(source, config)
    issued = provider.lease(role)
    told = {"role": role, "lease_id": issued.id, "username": issued.username, "lives_s": issued.lives_s}
    whole = {**told, "password": issued.password.reveal()}
    if to is not None:
        _keep(to, whole, provider, issued)
    shown = whole if reveal else told
    if form is Format.JSON:
        output.envelope("secrets lease", result=shown)
        return
    for word, text in shown.items():
        print(f"{word:<9} {'' if text is None else text}".rstrip())


def _keep(to: Path, whole: Mapping[str, object], provider: Provider, issued: Lease) -> None:
    """Write the file; a credential that cannot be kept is ended."""
    import json

    from dbsec import files
    from dbsec.errors import UsageError

    try:
        files.write_atomic(to, json.dumps(whole, indent=1) + "\n")
    except OSError as exc:
        ended = ""
        if issued.id:
            provider.revoke(issued)
            ended = "; the credential was revoked"
        raise UsageError(f"cannot write '{to}': {exc.strerror}{ended}") from exc


def rotate(
    role: Role,
    source: options.Source = "",
    config: options.File = None,
) -> None:
    """Have the password of a static role replaced now: who holds the old one logs in no more.

    Sessions that are open stay. Exit code 0: it was replaced; 3: it was refused or cannot be done now.
    """
    options.opened(source, config).rotate(role)
    print(f"{role} has another password")


def revoke(
    role: Role,
    lease_id: Annotated[str, typer.Argument(metavar="LEASE_ID", help="What `dbsec secrets lease` printed.")],
    source: options.Source = "",
    config: options.File = None,
) -> None:
    """End an issued credential before its time; one that has ended already is no error.

    Exit code 0: it is dead; 3: it was refused or cannot be done now.
    """
    from dbsec.secret import Secret
    from dbsec.secrets import Lease

    options.opened(source, config).revoke(Lease(role, lease_id, "", Secret(""), None))
    print(f"{lease_id} is revoked")
