"""``dbsec backup scramble-passwords``: a restored copy that the passwords of its original do not open."""

from __future__ import annotations

from typing import Annotated

import typer

from dbsec.cli import output
from dbsec.cli.backup import _options as options
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format


def add(command: typer.Typer) -> None:
    """Add ``scramble-passwords``."""
    command.command("scramble-passwords")(scramble)


def scramble(
    dsn: options.Dsn = None,
    config: options.File = None,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="ROLE", help="Leave its password; several may be told.")
    ] = None,
    apply: options.Apply = False,
    form: As = Format.TEXT,
) -> None:
    """Give every role of a restored copy, once it is promoted, a random password that nobody knows.

    --dsn names the copy, as a superuser; a server whose cluster_name does not begin with 'restored-' is refused. Keep
    the role by which you come in again, if it has no other way in. Exit code 0: done; 2: it is no copy.
    """
    from dbsec.backup.restoring import passwords
    from dbsec.pg import connect

    settings = options.settings_of(config)
    act = passwords.scramble_passwords if apply else passwords.roles_with_passwords
    with inputs.refusals(), connect(options.server(settings, dsn)) as session:
        roles = act(session, keep=keep or ())
    if form is Format.JSON:
        output.envelope("backup scramble-passwords", result={"applied": apply, "roles": roles})
        return
    for role in roles:
        print(role)
    print(
        f"{len(roles)} roles have"
        + (" a password that nobody knows" if apply else " passwords: --apply scrambles them")
    )
