"""``dbsec crypto keys``: generations, states, uses and ages of the keys, and what is due."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.crypto import _options as options
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dbsec.crypto.life.keys import Key
    from dbsec.findings import Finding


def add(command: typer.Typer) -> None:
    """Add ``keys``."""
    command.command()(keys)


def keys(
    dsn: options.Dsn,
    config: options.File = None,
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="Of this tenant alone.")] = None,
    context: Annotated[str | None, typer.Option(metavar="NAME", help="Of this context alone: app.users.")] = None,
    no_kms: Annotated[bool, typer.Option("--no-kms", help="Do not ask the KMS: its KEKs are not judged.")] = False,
    form: As = Format.TEXT,
) -> None:
    """List the keys: states, uses of 2^32, ages, the KEK that wraps each and whether it is the newest.

    Exit code 0: nothing is due; 1: a key is past 2^31 uses, its cadence, or an old KEK wraps it; 3: could not tell.
    """
    from dbsec.crypto.life import keys as life
    from dbsec.crypto.opening import keyring_connect, opened_kms

    settings = options.settings_of(config)
    kms = None if no_kms else opened_kms(settings, os.environ)
    with closing(keyring_connect(settings, options.opens(dsn), os.environ)()) as session, inputs.refusals():
        found = list(life.read(session, kms, tenant=tenant, context=context))
    findings = life.judge(found, settings.cadence)
    _tell(found, findings, form)
    if any(key.kek is not None and key.kek.away for key in found):
        raise typer.Exit(exits.COULD_NOT_TELL)
    if findings:
        raise typer.Exit(exits.FINDINGS)


def _tell(found: Sequence[Key], findings: Sequence[Finding], form: Format) -> None:
    if form is Format.JSON:
        shown = [finding.to_json() for finding in findings]
        output.envelope("crypto keys", result=[key.to_json() for key in found], findings=shown)
        return
    print(
        f"{'id':>6} {'tenant':<20} {'context':<24} {'purpose':<7} {'gen':>3} {'state':<9} {'used':>14} {'age':>6}  KEK"
    )
    for key in found:
        row = key.row
        print(
            f"{row.id:>6} {row.tenant:<20} {row.context:<24} {row.purpose:<7} {row.generation:>3} {row.state:<9}"
            f" {row.used:>14,} {key.age.days:>4} d  {row.kek} {row.kek_version}"
        )
    for finding in findings:
        print(f"{finding.target}: {finding.severity} {finding.code} {finding.name}: {finding.message}")
        if finding.fix:
            print(f"    instead: {finding.fix}")
    if not found:
        print("the keyring is empty")
