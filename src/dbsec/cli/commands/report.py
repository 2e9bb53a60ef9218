"""Write the report from evidence, and verify that no line of the evidence was changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.home import home
from dbsec.errors import EvidenceTampered, UsageError

COMMAND = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, help=__doc__)

Evidence = Annotated[Path, typer.Argument(metavar="OUT", help="A report's folder, or its evidence.jsonl.")]
AsFormat = Annotated[output.Format, typer.Option("--format", help="How the result is printed.")]


@COMMAND.command()
def build(
    where: Evidence,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write; by default beside the evidence.")] = None,
    format_: AsFormat = output.Format.TEXT,
) -> None:
    """Write index.html, report.md and report.json from the evidence; the signature is not needed."""
    from dbsec import report
    from dbsec.report import verdict

    evidence = _evidence(where)
    with output.progress() as progress:
        built = report.build(evidence, out or evidence.parent, progress=progress)
    if format_ is output.Format.JSON:
        result = {"headline": verdict.headline(built.report), "verdict": verdict.overall(built.report)}
        whole = {"intact": built.report.integrity.intact, "integrity": built.report.integrity.text}
        output.envelope("report build", result={**result, **whole, "paths": [str(path) for path in built.paths]})
    else:
        typer.echo(verdict.headline(built.report))
        for path in built.paths:
            typer.echo(path)
    if not built.report.integrity.intact:
        typer.echo(f"dbsec: the evidence is not whole: {built.report.integrity.text}", err=True)
        raise typer.Exit(exits.FINDINGS)


@COMMAND.command()
def verify(
    where: Evidence,
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", help="The signer's evidence.pub; by default keys/evidence.pub in .dbsec."),
    ] = None,
    format_: AsFormat = output.Format.TEXT,
) -> None:
    """Check that no line was changed, dropped, moved or cut, and with the public key that nothing was rewritten.

    Exit code 0: it holds; 1: tampered, and the line; 2: a path that is not there; 3: could not tell.
    """
    from dbsec import evidence as chain

    evidence, key_file = _evidence(where), _public_key(public_key)
    key = chain.load_public_key(key_file) if key_file else None
    result = {"path": str(evidence), "public_key": str(key_file) if key_file else None}
    try:
        found = chain.verify(evidence, key)
    except EvidenceTampered as exc:
        if format_ is output.Format.JSON:
            output.envelope("report verify", result={**result, "holds": False, "line": exc.line, "summary": str(exc)})
        raise
    if format_ is output.Format.JSON:
        facts = {"holds": True, "count": found.count, "head": found.head, "signed_by": found.signed_by}
        output.envelope("report verify", result={**result, **facts, "summary": found.summary})
        return
    typer.echo(found.summary)
    if key is None:
        typer.echo(f"  try: dbsec report verify {where} --public-key evidence.pub", err=True)


def _evidence(where: Path) -> Path:
    path = where / "evidence.jsonl" if where.is_dir() else where
    if not path.exists():
        raise UsageError(f"there is no evidence at '{path}'", hint="dbsec demo")
    return path


def _public_key(given: Path | None) -> Path | None:
    if given is not None:
        if not given.exists():
            raise UsageError(f"there is no public key at '{given}'")
        return given
    usual = home() / "keys" / "evidence.pub"
    return usual if usual.exists() else None
