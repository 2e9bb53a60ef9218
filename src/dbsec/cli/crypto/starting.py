"""``dbsec crypto init``: the KEKs that [crypto] names, made and proven; a role that may use the keyring."""

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

    from dbsec.crypto.life.beginning import Kek


def add(command: typer.Typer) -> None:
    """Add ``init``."""
    command.command()(init)


def init(
    dsn: options.Dsn,
    config: options.File = None,
    tenant: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A tenant that gets a KEK; several may be told.")
    ] = None,
    user: Annotated[list[str] | None, typer.Option(metavar="ROLE", help="A role of the service.")] = None,
    admin: options.Admin = None,
    apply: options.Apply = False,
    form: As = Format.TEXT,
) -> None:
    """Make the KEKs that are not there, prove that they wrap and unwrap, and let the service's role use the keyring.

    The keyring is in schema dbsec: dbsec db install. Running it again changes nothing.
    """
    from dbsec.crypto.access import allow
    from dbsec.crypto.life import beginning, rows
    from dbsec.crypto.opening import keyring_connect, opened_kms
    from dbsec.kms.uri import TENANT
    from dbsec.pg import own

    settings = options.settings_of(config)
    kms = opened_kms(settings, os.environ)
    if bool(tenant) != (TENANT in settings.kms):
        raise UsageError(
            f"[crypto] kms has {'' if not tenant else 'no '}'{TENANT}' in it", hint="--tenant NAME, or none"
        )
    with closing(keyring_connect(settings, options.opens(dsn), os.environ)()) as session, inputs.refusals():
        own.require(session, rows.VERSION)
        found = list(beginning.look(kms, tenant or [""]))
        if apply:
            found = list(beginning.make(kms, lambda name: options.admin_of(settings, admin, name), found))
            for role in user or ():
                allow(session, role)
    _tell(found, user or [], form, applied=apply)


def _tell(found: Sequence[Kek], users: Sequence[str], form: Format, *, applied: bool) -> None:
    if form is Format.JSON:
        output.envelope("crypto init", result={"applied": applied, "keks": [asdict(one) for one in found]})
        return
    for one in found:
        of = f"tenant '{one.tenant}'" if one.tenant else "all tenants"
        print(f"{of}: {one.kek or 'no KEK that the KMS shows'}{' (made)' if one.made else ''}")
        for note in one.notes:
            print(f"  note: {note}")
    for role in users:
        print(f"role '{role}' {'may' if applied else 'would be allowed to'} use the keyring")
    if not applied:
        print("--apply makes what is not there")
