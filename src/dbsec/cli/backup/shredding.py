"""``dbsec backup shred``: the KEK of a month is destroyed, and its backups end, also those that nobody can delete."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbsec.cli import exits, output
from dbsec.cli.backup import _evidence as evidence
from dbsec.cli.backup import _options as options
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from dbsec.backup import BackupSettings
    from dbsec.backup.shred_plan import Plan
    from dbsec.backup.shredding import AdminOf, Shredded
    from dbsec.evidence import Observation
    from dbsec.kms import KmsAdmin


def add(command: typer.Typer) -> None:
    """Add ``shred``."""
    command.command()(shred)


def shred(
    period: Annotated[str, typer.Argument(metavar="MONTH", help="Whose backups are to end: 2026-11.")],
    config: options.File = None,
    admin: Annotated[
        str | None, typer.Option("--admin", metavar="URI", help="The KMS as its administrator; else [backup] kms.")
    ] = None,
    escrow_admin: Annotated[
        str | None, typer.Option("--escrow-admin", metavar="URI", help="The escrow as its administrator.")
    ] = None,
    break_chains: Annotated[
        bool, typer.Option("--break-chains", help="Also what a kept backup or the WAL after it needs.")
    ] = False,
    kek_is_gone: Annotated[
        bool, typer.Option("--kek-is-gone", help="Somebody destroyed the KEK before: believe the KMS.")
    ] = False,
    others_gone: Annotated[
        bool, typer.Option("--other-keks-are-gone", help="The KEKs that older wraps name are destroyed.")
    ] = False,
    confirm: Annotated[str, typer.Option("--confirm", metavar="MONTH", help="With --apply: the month again.")] = "",
    evidence_file: evidence.File = None,
    apply: options.Apply = False,
    form: As = Format.TEXT,
) -> None:
    """Destroy the KEK of a month, and of its escrow: what was sealed in it opens never again. Not to be undone.

    [backup] kms must have {tenant} in it, which is the month. Exit code 0: nothing of it opens; 1: something does, or
    is still needed; 2: the KEK is not the month's alone; 3: could not tell.
    """
    from dbsec.backup.shred_plan import plan
    from dbsec.backup.shredding import check_period, refuse
    from dbsec.backup.shredding import shred as shredded
    from dbsec.clock import SYSTEM

    check_period(period, SYSTEM.now())
    settings = options.settings_of(config)
    admin_of = _admins(settings, admin, escrow_admin)
    repository = options.repository(settings)
    with output.progress() as progress:
        if not apply:
            found = plan(repository, period, progress=progress)
            _tell_plan(found, form)
            refuse(found, break_chains=break_chains, others_gone=others_gone)
            return
        if confirm != period:
            raise UsageError("this cannot be undone: name the month again", hint=f"--apply --confirm {period}")
        act = partial(
            shredded,
            repository,
            period,
            admin_of,
            break_chains=break_chains,
            kek_is_gone=kek_is_gone,
            others_gone=others_gone,
            progress=progress,
        )
        control = evidence.control(
            "SHRED", "A month of backups can be ended", "what the law wants gone stays under a lock"
        )
        done = evidence.recorded(evidence_file, control, "shred", act, _judge)
    _tell(done, form)
    raise typer.Exit({"pass": exits.CLEAN, "fail": exits.FINDINGS}.get(str(done.outcome), exits.COULD_NOT_TELL))


def _admins(settings: BackupSettings, admin: str | None, escrow_admin: str | None) -> AdminOf:
    from dbsec.backup.keys import PRIMARY
    from dbsec.kms import open_admin
    from dbsec.kms.uri import TENANT

    for name, uri in (("kms", settings.kms), ("escrow", settings.escrow)):
        if uri and TENANT not in uri:
            hint = f"[backup] {name} with '{TENANT}' in it: months to come have KEKs of their own"
            raise UsageError(
                f"[backup] {name} is one KEK for all months: to destroy it would end every backup", hint=hint
            )

    def of(role: str, period: str) -> KmsAdmin:
        uri = (admin or settings.kms) if role == PRIMARY else (escrow_admin or settings.escrow)
        return open_admin(uri, environ=os.environ, tenant=period if TENANT in uri else "")

    return of


def _judge(done: Shredded) -> Observation:
    from dbsec.evidence import Observation

    said = f"{done.epochs - len(done.open):,} of {done.epochs:,} keys of '{done.period}' open no more"
    told = {**asdict(done), "at": str(done.at)}
    return Observation(done.outcome, said, evidence.facts(**told))


def _tell_plan(found: Plan, form: Format) -> None:
    keks = {role: told.kek if told is not None else None for role, told in found.keks.items()}
    if form is Format.JSON:
        told: dict[str, Any] = {"applied": False, **asdict(found), "keks": keks}
        output.envelope("backup shred", result=told)
        return
    print(f"month '{found.period}': {len(found.epochs):,} epochs, {found.objects:,} objects")
    for role, kek in keks.items():
        print(f"  {role}: {kek or 'a KEK that the KMS does not show'} would be destroyed")
    for kek in found.others:
        print(f"  older wraps name '{kek}': nothing is shredded while that KEK lives")
    for why in (*found.shared, *found.needed):
        print(f"  in the way: {why}")
    print(f"  to destroy it, which cannot be undone: --apply --confirm {found.period}")


def _tell(done: Shredded, form: Format) -> None:
    if form is Format.JSON:
        output.envelope("backup shred", result={"applied": True, **asdict(done), "outcome": str(done.outcome)})
        return
    keks = ", ".join(done.keks) or "its KEK"
    print(f"month '{done.period}': {keks} destroyed; {done.epochs:,} epochs, {done.objects:,} objects")
    print(f"  {done.epochs - len(done.open) - len(done.unknown):,} keys were tried and refused")
    for one in done.left:
        print(f"  left: {one}")
    for name in (*done.open, *done.unknown):
        print(f"dbsec: not shut: {name}", file=sys.stderr)
