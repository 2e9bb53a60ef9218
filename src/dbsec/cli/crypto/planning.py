"""``dbsec crypto plan``: what a column's own figures say about finding its values again after encryption."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbsec.cli import output
from dbsec.cli.crypto._options import File, settings_of
from dbsec.cli.migrate import inputs
from dbsec.cli.output import Format
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from dbsec.crypto.planner import Option, Proposal
    from dbsec.crypto.statistics import ColumnStatistics

Column = Annotated[str, typer.Argument(metavar="TABLE.COLUMN", help="With its schema: app.users.email.")]
Dsn = Annotated[str | None, typer.Option("--dsn", metavar="REF", help="The database, as env:NAME or file:PATH.")]


def add(group: typer.Typer) -> None:
    """Put the command into the group."""
    group.command("plan")(plan)


def plan(
    column: Column,
    dsn: Dsn = None,
    unique: Annotated[bool, typer.Option("--unique", help="The index refuses duplicates.")] = False,
    tenant: Annotated[
        str, typer.Option(metavar="COLUMN", help="Plan for the largest tenant: each one has a key of its own.")
    ] = "",
    rows: Annotated[int | None, typer.Option(help="Without --dsn: rows of the table.")] = None,
    distinct: Annotated[int | None, typer.Option(help="Without --dsn: different values.")] = None,
    top: Annotated[float, typer.Option(help="Without --dsn: the share of the most frequent value, 0.02.")] = 0.0,
    nulls: Annotated[float, typer.Option(help="Without --dsn: the share of rows without a value.")] = 0.0,
    allow_low_entropy: Annotated[
        bool, typer.Option("--allow-low-entropy", help="Propose an index that frequencies give away.")
    ] = False,
    rotate_lookup: Annotated[
        bool, typer.Option("--rotate-lookup", help="The steps to the next lookup key of an encrypted column.")
    ] = False,
    python: Annotated[
        str, typer.Option(metavar="MODULE:FUNCTION", help="With --rotate-lookup: fills the new column.")
    ] = "",
    check: Annotated[
        str, typer.Option(metavar="MODULE:FUNCTION", help="With --rotate-lookup: compares the two, to verify.")
    ] = "",
    name: Annotated[str, typer.Option(metavar="NAME", help="With --rotate-lookup: the new column.")] = "",
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --rotate-lookup and --dsn: write the migrations there.")
    ] = None,
    config: File = None,
    form: Annotated[Format, typer.Option("--format", help="How the plan is told.")] = Format.TEXT,
) -> None:
    """Tell how values are found again after encryption, by figures of the column in clear, and what each way leaks.

    Exit code 0: a proposal; 1: refused, for the column's entropy is too low; 2: wrong usage; 3: no statistics.
    """
    if rotate_lookup:
        from dbsec.cli.crypto import _rotation

        asked = _rotation.Asked(column, dsn, name, python, check, folder, config)
        _rotation.tell(asked, as_json=form is Format.JSON)
        return
    stats = _read(column, dsn, tenant, config) if dsn else _told(rows, distinct, top, nulls)
    fips = settings_of(config).profile == "fips"
    raise typer.Exit(_propose(column, stats, unique=unique, allow=allow_low_entropy, fips=fips, form=form))


def _told(rows: int | None, distinct: int | None, top: float, nulls: float) -> ColumnStatistics:
    from dbsec.crypto.statistics import ColumnStatistics

    if rows is None or distinct is None:
        raise UsageError("no figures to plan by", hint="--dsn env:NAME; or --rows N --distinct N")
    return ColumnStatistics(rows=rows, distinct=distinct, top_frequency=top, null_fraction=nulls)


def _read(column: str, dsn: str, tenant: str, config: Path | None) -> ColumnStatistics:
    from dbsec.crypto import statistics

    with inputs.connected(dsn) as connection:
        schema, table, name = statistics.named(connection, column)
        for one in settings_of(config).declared:
            if (one.table, one.column) == (f"{schema}.{table}", name):
                raise UsageError(
                    f"'{column}' is encrypted: its figures are those of ciphertext",
                    hint="plan by the column in clear; --rotate-lookup plans its next key",
                )
        found = statistics.read(connection, column)
        if not tenant:
            return found
        whole = column.rpartition(".")[0]
        return found.within(statistics.read(connection, f"{whole}.{tenant}").top_frequency)


def _propose(column: str, stats: ColumnStatistics, *, unique: bool, allow: bool, fips: bool, form: Format) -> int:
    from dbsec.crypto.errors import ModeRefused
    from dbsec.crypto.planner import plan_deterministic, plan_index

    try:
        index = plan_index(stats, unique=unique, allow_low_entropy=allow)
        deterministic = None if fips else plan_deterministic(stats, allow_low_entropy=allow)
    except ModeRefused as exc:
        if form is Format.JSON:
            output.envelope("crypto plan", result=_figures(column, stats) | {"refused": exc.message, "hint": exc.hint})
        else:
            _show_figures(column, stats)
            print(f"refused: {exc.message}\n  next: {exc.hint}")
        return 1
    if form is Format.JSON:
        output.envelope("crypto plan", result=_as_json(column, index, deterministic))
    else:
        _show(column, index, deterministic)
    return 0


def _figures(column: str, stats: ColumnStatistics) -> dict[str, Any]:
    derived = {"min_entropy_bits": stats.min_entropy_bits, "rows_per_value": stats.rows_per_value}
    return {"column": column, "statistics": asdict(stats) | derived}


def _as_json(column: str, index: Proposal, deterministic: Proposal | None) -> dict[str, Any]:
    def shown(option: Option) -> dict[str, Any]:
        return asdict(option) | {"type": option.type}

    return _figures(column, index.statistics) | {
        "recommended": shown(index.recommended),
        "options": [shown(one) for one in _options(index, deterministic)],
        "leaks": list(index.leaks),
        "deterministic_leaks": list(deterministic.leaks) if deterministic else None,
        "warnings": _warnings(index, deterministic),
    }


def _options(index: Proposal, deterministic: Proposal | None) -> list[Option]:
    return [*index.options, *(deterministic.options if deterministic else ())]


def _warnings(index: Proposal, deterministic: Proposal | None) -> list[str]:
    fips = "the FIPS profile has no deterministic encryption: AES-SIV is not in OpenSSL's FIPS provider"
    return list(dict.fromkeys([*index.warnings, *(deterministic.warnings if deterministic else [fips])]))


def _show_figures(column: str, stats: ColumnStatistics) -> None:
    twice = stats.top_frequency * stats.filled >= 2
    top = f"the most frequent in {stats.top_frequency:.2%}" if twice else "none known to come twice"
    print(
        f"{column}: {stats.rows:,} rows, {stats.null_fraction:.1%} NULL, {stats.distinct:,} different values "
        f"({stats.rows_per_value:,.1f} rows each), {top} ({stats.min_entropy_bits:.1f} bits of min-entropy)"
    )


def _show(column: str, index: Proposal, deterministic: Proposal | None) -> None:
    _show_figures(column, index.statistics)
    print(f"\n  {'':14}{'bits':>6}  {'type':8}{'index B/row':>12}{'coincidences':>14}{'rows in vain':>14}")
    for option in _options(index, deterministic):
        mark = "*" if option is index.recommended else " "
        bits = "SIV" if option.bits is None else str(option.bits)
        print(
            f"{mark} {option.aim:14}{bits:>6}  {option.type:8}{option.index_bytes:>12.1f}"
            f"{_small(option.coincidences):>14}{_small(option.strangers_per_lookup):>14}  {option.why}"
        )
    for title, lines in (
        ("a blind index (*) shows", index.leaks),
        ("deterministic encryption shows", deterministic.leaks if deterministic else ()),
        ("mind", _warnings(index, deterministic)),
    ):
        if lines:
            print("\n".join([f"\n{title}:", *(f"  - {line}" for line in lines)]))


def _small(number: float) -> str:
    if number == 0:
        return "0"
    return f"{number:,.1f}" if number >= 0.05 else f"{number:.0e}"
