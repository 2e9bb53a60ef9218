"""``dbsec crypto shred``: a tenant's KEK is destroyed, and what remains of the tenant is proven to stay shut."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbsec.cli import exits, output
from dbsec.cli.crypto import _options as options
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dbsec.crypto.life.proof import Proof
    from dbsec.crypto.life.shredding import Planned, Shredded


def add(command: typer.Typer) -> None:
    """Add ``shred``."""
    command.command()(shred)


def shred(
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="Whose data is to end.")],
    dsn: options.Dsn,
    config: options.File = None,
    admin: options.Admin = None,
    restored_dsn: Annotated[
        str | None, typer.Option("--restored-dsn", metavar="REF", help="A restored backup: prove it there too.")
    ] = None,
    confirm: Annotated[str, typer.Option("--confirm", metavar="NAME", help="With --apply: the tenant again.")] = "",
    prove_only: Annotated[bool, typer.Option("--prove-only", help="Destroy nothing; try what still opens.")] = False,
    kek_is_gone: Annotated[
        bool, typer.Option("--kek-is-gone", help="Somebody destroyed the KEK before: believe the KMS.")
    ] = False,
    apply: options.Apply = False,
    form: As = Format.TEXT,
) -> None:
    """Destroy a tenant's KEK: what was encrypted under it opens never again, in backups neither. Not to be undone.

    It tries the keys and values of the live database, and of a restored backup, and tells what is left and until when.
    Exit code 0: nothing opens; 1: something does; 2: the KEK is shared, or wrong usage; 3: could not tell.
    """
    from dbsec.crypto.life.shredding import Shredder

    settings = options.settings_of(config)
    shredder = Shredder(settings, options.opens(dsn), os.environ)
    restored = options.opens(restored_dsn) if restored_dsn is not None else None
    with inputs.refusals(), output.progress() as progress:
        if prove_only:
            found = shredder.prove(tenant, shredder.connect, "live")
            found += shredder.prove(tenant, restored, "restored backup") if restored is not None else []
            _tell_proofs(found, form)
            raise typer.Exit(_code(found))
        if not apply:
            _tell_plan(shredder.plan(tenant), form)
            return
        if confirm != tenant:
            raise UsageError("this cannot be undone: name the tenant again", hint=f"--apply --confirm '{tenant}'")
        shredder.refuse_shared()
        opened = options.admin_of(settings, admin, tenant)
        done = shredder.shred(tenant, opened, restored=restored, kek_is_gone=kek_is_gone, progress=progress)
    _tell(done, form)
    raise typer.Exit(_code(done.proofs))


def _code(found: Sequence[Proof]) -> int:
    from dbsec.evidence import Outcome

    outcomes = {one.outcome for one in found}
    if Outcome.FAIL in outcomes:
        return exits.FINDINGS
    return exits.COULD_NOT_TELL if Outcome.ERROR in outcomes else exits.CLEAN


def _tell_plan(found: Planned, form: Format) -> None:
    kek = found.kek.kek if found.kek is not None else None
    if form is Format.JSON:
        told: dict[str, Any] = {"applied": False, "tenant": found.tenant, "kek": kek, "keys": len(found.keys)}
        told |= {"delay_s": found.delay.total_seconds(), "values_tried": found.values, "values_open": found.open}
        output.envelope("crypto shred", result=told)
        return
    print(f"tenant '{found.tenant}': {len(found.keys)} keys under {kek or 'a KEK that the KMS does not show'}")
    print(f"  {found.open} of {found.values} values that were tried open now")
    if found.delay:
        print(f"  the KMS ends a KEK after {found.delay.days} days: until then its administrator can take it back")
    print(f"  to destroy the KEK, which cannot be undone: --apply --confirm '{found.tenant}'")


def _tell(done: Shredded, form: Format) -> None:
    if form is Format.JSON:
        output.envelope("crypto shred", result={"applied": True, **asdict(done), "outcome": str(done.outcome)})
        return
    print(f"tenant '{done.tenant}': {done.kek or 'its KEK'} is destroyed, {done.keys} keys emptied")
    _tell_proofs(done.proofs, form)
    for one in done.left:
        print(f"  left: {one}")
    if done.outcome != "pass":
        print("dbsec: it is not proven that nothing opens: see above", file=sys.stderr)


def _tell_proofs(found: Sequence[Proof], form: Format) -> None:
    if form is Format.JSON:
        output.envelope("crypto shred", result={"applied": False, "proofs": [asdict(one) for one in found]})
        return
    for one in found:
        print(f"{one.outcome.name:<5} {one.name}: {one.reason}")
