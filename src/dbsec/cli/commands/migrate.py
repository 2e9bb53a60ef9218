"""Safe migrations: lint, replay, plan, run, guard, and write them in steps that the running release survives."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dbsec import files
from dbsec.cli import output
from dbsec.cli.migrate import erasing, guarding, inputs, running, writing
from dbsec.cli.migrate.options import (
    TEXT,
    As,
    Dsn,
    Form,
    Output,
    Paths,
    Postgres,
    Schema,
    Since,
    Source,
    Transaction,
    Version,
    Wrapped,
)
from dbsec.cli.output import Format
from dbsec.errors import UsageError
from dbsec.findings import Severity

COMMAND = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)
COMMAND.add_typer(guarding.APP, name="guard")
COMMAND.add_typer(writing.APP, name="new")
running.add(COMMAND)
erasing.add(COMMAND)


@COMMAND.command()
def lint(
    context: typer.Context,
    paths: Paths,
    pg_version: Version = None,
    schema: Schema = None,
    dsn: Dsn = None,
    stats: Annotated[Path | None, typer.Option(metavar="FILE", help="Sizes and rates, of migrate snapshot.")] = None,
    form: Annotated[Form, typer.Option("--format", help="How findings are told.")] = TEXT,
    out: Output = None,
    fix: Annotated[bool, typer.Option("--fix", help="Show the mechanical fixes as a diff, and write them.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --fix: write without asking.")] = False,
    changed_since: Since = None,
    baseline: Annotated[Path | None, typer.Option(metavar="FILE", help="Hold back the findings that it has.")] = None,
    write_baseline: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the findings there.")] = None,
    waivers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Accepted findings; by default dbsec-waivers.toml.")
    ] = None,
    fail_on: Annotated[Severity, typer.Option(help="The lowest severity that makes the exit code 1.")] = Severity.ERROR,
    transaction: Wrapped = Transaction.AUTO,
    select: Annotated[
        list[str] | None, typer.Option("--select", "--rule", metavar="RULES", help="Only these: MIG101, MIG2, a name.")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option("--ignore", metavar="RULES", help="All but these.")] = None,
) -> None:
    """Tell what a migration would block, break or lose, and the SQL to run instead.

    Exit code 0: no error; 1: errors found; 2: wrong usage; 3: something could not be read.
    """
    inputs.need_parser()
    from dbsec.cli.migrate import linting

    asked = linting.Asked(
        paths=tuple(paths),
        pg_version=pg_version,
        schema=schema,
        dsn=dsn,
        stats=stats,
        form=str(form),
        output=out,
        fix=fix,
        yes=yes,
        changed_since=changed_since,
        baseline=baseline,
        write_baseline=write_baseline,
        waivers=waivers,
        fail_on=fail_on,
        wrap=inputs.wrap_of(str(transaction)),
        select=tuple(select or ()),
        ignore=tuple(ignore or ()),
    )
    raise typer.Exit(linting.run(asked, ending=context.obj))


@COMMAND.command()
def trace(
    paths: Paths,
    schema: Schema = None,
    dsn: Dsn = None,
    postgres: Postgres = Source.WHEEL,
    existing: Annotated[bool, typer.Option("--existing", help="With --dsn: its tables may be changed.")] = False,
    changed_since: Since = None,
    transaction: Wrapped = Transaction.AUTO,
    form: As = Format.TEXT,
) -> None:
    """Replay a migration on a scratch PostgreSQL, and tell what it did beside what the linter foretells.

    Exit code 0: they agree; 1: PostgreSQL did more than was foretold, or refused; 2: wrong usage; 3: could not tell.
    """
    inputs.need_parser()
    from dbsec.cli.migrate import tracing

    wrap = inputs.wrap_of(str(transaction))
    code = tracing.run(
        paths,
        schema=schema,
        dsn=dsn,
        postgres=inputs.source_of(str(postgres)),
        existing=existing,
        changed_since=changed_since,
        wrap=wrap,
        as_json=form is Format.JSON,
    )
    raise typer.Exit(code)


@COMMAND.command()
def facts(
    postgres: Postgres = Source.WHEEL,
    dsn: Dsn = None,
    out: Annotated[Path | None, typer.Option("--output", metavar="DIR", help="Write pgNN.json there.")] = None,
) -> None:
    """Measure what a PostgreSQL does with each case of the fact base; for those who change the linter."""
    inputs.need_parser()
    from dbsec.cli.migrate import tracing

    tracing.facts(inputs.source_of(str(postgres)), dsn, out)


@COMMAND.command()
def snapshot(
    dsn: Annotated[str, typer.Option("--dsn", metavar="REF", help="A server, as env:NAME or file:PATH of its DSN.")],
    out: Output = None,
    interval: Annotated[str, typer.Option(help="How long writes and reads are counted: 10s, 1min.")] = "10s",
) -> None:
    """Write how large and how busy each table is, for lint --stats; reads only."""
    from dbsec.migrations import stats

    seconds = inputs.span_s(interval)
    with inputs.connected(dsn) as connection, output.progress() as progress:
        progress.step(f"counting writes and reads for {seconds:g} s")
        taken = stats.snapshot(connection, seconds)
    if out is None:
        sys.stdout.write(taken.dump())
        return
    files.write_atomic(out, taken.dump(), mode=0o644)
    print(
        f"dbsec: {len(taken.tables):,} tables in '{out}'\n  try: dbsec migrate lint --stats {out} ...", file=sys.stderr
    )


@COMMAND.command()
def rules(
    code: Annotated[str | None, typer.Argument(metavar="[RULE]", help="A code or a name: explain this one.")] = None,
    form: As = Format.TEXT,
) -> None:
    """List the rules, or explain one: what PostgreSQL does, what to run instead, how it is proven."""
    inputs.need_parser()
    from dbsec.cli.migrate import explaining
    from dbsec.migrations import pages
    from dbsec.migrations.linter import all_rules

    known = all_rules()
    if code is not None:
        known = inputs.chosen(known, [code], [])
        if len(known) > 1:
            raise UsageError(f"'{code}' names {len(known)} rules", hint="dbsec migrate rules")
    if form is Format.JSON:
        output.envelope("migrate rules", result=[explaining.told(rule) for rule in known.values()])
    elif code is None:
        sys.stdout.write(explaining.table(known.values()))
    else:
        sys.stdout.write("".join(map(pages.page, known.values())))
