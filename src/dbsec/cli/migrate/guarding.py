"""``dbsec migrate guard``: the event triggers that see what no linter can."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dbsec.migrations.guard import Plan, Policy, Proof

APP = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)
Server = Annotated[str, typer.Option("--dsn", metavar="REF", help="The server, as env:NAME or file:PATH of its DSN.")]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="With [migrations.guard]; by default dbsec.toml here.")
]
Apply = Annotated[bool, typer.Option("--apply", help="Do it; without this the plan is shown, and nothing is changed.")]


@APP.command()
def plan(
    dsn: Annotated[str | None, typer.Option("--dsn", metavar="REF", help="A server, as env:NAME or file:PATH.")] = None,
    config: Config = None,
    sql: Annotated[bool, typer.Option("--sql", help="Write the script itself, for psql; needs no server.")] = False,
    form: As = Format.TEXT,
) -> None:
    """Tell what an installation would change on a server; changes nothing.

    Exit code 0: the guard is there as the policy says; 1: it is not.
    """
    from dbsec.migrations import guard

    policy = _policy(config)
    if sql:
        sys.stdout.write(guard.render(policy))
        return
    if dsn is None:
        raise UsageError("no server is named", hint="--dsn env:NAME, or --sql for the script")
    with inputs.connected(dsn) as connection:
        found = guard.plan(connection, policy)
    _told("plan", found, form)
    raise typer.Exit(exits.FINDINGS if found.changes else exits.CLEAN)


@APP.command()
def install(dsn: Server, config: Config = None, apply: Apply = False, form: As = Format.TEXT) -> None:
    """Make a server's guard as the policy says, in one transaction; shows the plan unless --apply."""
    from dbsec.migrations import guard

    policy = _policy(config)
    with inputs.connected(dsn) as connection:
        found = guard.install(connection, policy) if apply else guard.plan(connection, policy)
    _told("install", found, form, applied=apply)


@APP.command()
def uninstall(dsn: Server, apply: Apply = False, form: As = Format.TEXT) -> None:
    """Take the guard away with all that it made, its log of overrides too; shows the plan unless --apply."""
    from dbsec.migrations import guard

    with inputs.connected(dsn) as connection:
        found = guard.uninstall(connection) if apply else guard.planned_removal(connection)
    _told("uninstall", found, form, applied=apply)


@APP.command()
def selftest(dsn: Server, form: As = Format.TEXT) -> None:
    """Prove on a live server that each guard refuses what it must, and that CONCURRENTLY still works.

    On a scratch table that is removed again. Exit code 0: all hold; 1: one does not; 3: one could not be told.
    """
    from dbsec.migrations import guard

    def tell(proof: Proof) -> None:
        if form is Format.TEXT:
            print(f"{proof.outcome.name:<5} {proof.name}: {proof.reason}", flush=True)

    with inputs.connected(dsn) as connection:
        proofs = guard.selftest(connection, told=tell)
    if form is Format.JSON:
        output.envelope("migrate guard selftest", result=[asdict(proof) for proof in proofs])
    raise typer.Exit(_judged(proofs))


@APP.command()
def override(
    dsn: Server,
    guard: Annotated[str, typer.Argument(metavar="GUARD", help="rewrite, index, drop, ...; with --end a number.")],
    reason: Annotated[str, typer.Option(help="Why; it is on the record.")] = "",
    lasts: Annotated[str, typer.Option(help="How long: 15min; up to the policy's max_override.")] = "15min",
    role: Annotated[str | None, typer.Option(help="Whom it lets pass, by login; by default who runs this.")] = None,
    end: Annotated[bool, typer.Option("--end", help="End the override of this number.")] = False,
    form: As = Format.TEXT,
) -> None:
    """Let somebody pass one guard for a while, in an emergency; logged with who, why and until when."""
    from dbsec.migrations import guard as guards

    if end and not guard.isdecimal():
        raise UsageError(f"'{guard}' is no number of an override", hint="dbsec migrate guard plan --dsn ...")
    if not end and not reason.strip():
        raise UsageError("an override needs a reason", hint="--reason 'INC-123: ...'")
    with inputs.connected(dsn) as connection:
        if end:
            guards.end_override(connection, number := int(guard))
        else:
            number = guards.override(connection, guard, reason, lasts=lasts, role=role)
    if form is Format.JSON:
        output.envelope("migrate guard override", result={"override": number, "open": not end})
    else:
        told = "ended" if end else f"open; to end it: dbsec migrate guard override {number} --end --dsn {dsn}"
        print(f"override {number} is {told}")


def _policy(config: Path | None) -> Policy:
    from dbsec.migrations.guard.policy import Policy

    here = Path("dbsec.toml")
    return Policy.load(config if config is not None or not here.exists() else here)


def _told(command: str, found: Plan, form: Format, *, applied: bool = False) -> None:
    if form is Format.JSON:
        body = {"applied": applied, "changes": [asdict(one) for one in found.changes], "notes": list(found.notes)}
        output.envelope(f"migrate guard {command}", result=body)
        return
    for change in found.changes:
        print(change)
    for note in found.notes:
        print(f"note    {note}")
    if not found.changes:
        print("nothing to do")
    elif not applied and command != "plan":
        print(f"\n{len(found.changes)} changes, none of them made: --apply makes them")


def _judged(proofs: Sequence[Proof]) -> int:
    from dbsec.evidence import Outcome

    outcomes = {proof.outcome for proof in proofs}
    if Outcome.FAIL in outcomes:
        return exits.FINDINGS
    return exits.COULD_NOT_TELL if Outcome.ERROR in outcomes else exits.CLEAN
