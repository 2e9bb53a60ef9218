"""Install, upgrade and remove dbsec's own tables (schema dbsec) in a database, and tell what is there."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbsec.cli import exits, output
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format

if TYPE_CHECKING:
    import psycopg

    from dbsec.pg.own import Plan

COMMAND = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)
Ref = Annotated[str, typer.Option("--dsn", metavar="REF", help="The database, as env:NAME or file:PATH of its DSN.")]
Apply = Annotated[bool, typer.Option("--apply", help="Do it; without, only tell what would be done.")]


@COMMAND.command()
def install(
    dsn: Ref,
    user: Annotated[list[str] | None, typer.Option(metavar="ROLE", help="A role that is to use the schema.")] = None,
    apply: Apply = False,
    form: As = Format.TEXT,
) -> None:
    """Bring the schema to the version of this dbsec, and let roles use it; again as often as you like."""
    from dbsec.pg import own

    with inputs.connected(dsn) as connection:
        users = user or []
        if apply:
            _tell(own.install(connection, users=users), form, done=True)
        else:
            _tell(own.plan(connection, own.Verb.INSTALL, users=users), form, done=False)


@COMMAND.command()
def upgrade(dsn: Ref, apply: Apply = False, form: As = Format.TEXT) -> None:
    """Run the steps that an older dbsec did not know; a client one version older still works."""
    from dbsec.pg import own

    with inputs.connected(dsn) as connection:
        _tell(own.upgrade(connection) if apply else own.plan(connection, own.Verb.UPGRADE), form, done=apply)


@COMMAND.command()
def uninstall(
    dsn: Ref,
    apply: Apply = False,
    force: Annotated[bool, typer.Option("--force", help="Although a job runs.")] = False,
    form: As = Format.TEXT,
) -> None:
    """Drop the schema with all that jobs have recorded in it; role dbsec_owner stays."""
    from dbsec.pg import own

    with inputs.connected(dsn) as connection:
        what = own.uninstall(connection, force=force) if apply else own.plan(connection, own.Verb.UNINSTALL)
        _tell(what, form, done=apply)


@COMMAND.command()
def status(dsn: Ref, form: As = Format.TEXT) -> None:
    """Tell which version is installed, who may use it, and which jobs it knows; exit 1 where it is absent or older."""
    from dbsec.pg import own

    with inputs.connected(dsn) as connection:
        told = _status(connection)
    if form is Format.JSON:
        output.envelope("db status", result=told)
    else:
        _print_status(told)
    if told["installed"] is None or told["installed"] < own.VERSION:
        raise typer.Exit(exits.FINDINGS)


def _tell(what: Plan, form: Format, *, done: bool) -> None:
    if form is Format.JSON:
        acts = [{"what": act.what, "statement": act.statement, "as_owner": act.as_owner} for act in what.acts]
        loses = [{"table": table, "rows": rows} for table, rows in what.rows]
        running = [str(one) for one in what.running]
        result = {"verb": str(what.verb), "applied": done, "acts": acts, "loses": loses, "running": running}
        output.envelope(f"db {what.verb}", result=result)
        return
    for act in what.acts:
        print(f"-- {act.what}")
        if not done:
            print(f"{act.statement};")
    for table, rows in what.rows:
        print(f"-- {'lost' if done else 'would be lost'}: {rows:,} rows of {table}")
    for one in what.running:
        print(f"-- uses it now: {one}")
    if not what:
        print("-- nothing to do")
    elif not done:
        print(f"nothing was changed; to do it: dbsec db {what.verb} ... --apply", file=sys.stderr)


def _status(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    from dbsec.journal import jobs
    from dbsec.pg import own

    steps = own.steps(connection)
    return {
        "installed": max((step.version for step in steps), default=None),
        "known": own.VERSION,
        "min_client": max((step.min_client for step in steps), default=None),
        "steps": [{"version": s.version, "at": s.at, "dbsec": s.dbsec} for s in steps],
        "users": own.users(connection),
        "jobs": [dataclasses.asdict(job) for job in jobs(connection)] if steps else [],
    }


def _print_status(told: dict[str, Any]) -> None:
    if told["installed"] is None:
        print("schema dbsec is not installed")
        return
    print(f"schema dbsec has version {told['installed']}; this dbsec brings {told['known']}")
    for step in told["steps"]:
        print(f"  version {step['version']:<3} {step['at']:%Y-%m-%d %H:%M} by dbsec {step['dbsec']}")
    print(f"  used by: {', '.join(told['users']) or 'its owner alone'}")
    for job in told["jobs"]:
        held = f", run by {job['holder']}" if job["holder"] else ""
        print(f"  job {job['name']}: last step '{job['step']}' {job['event']} ({job['records']:,} records){held}")
