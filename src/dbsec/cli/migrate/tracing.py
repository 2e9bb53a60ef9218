"""``dbsec migrate trace`` and ``facts``: find a server, let it do the work, and tell what it did."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from dbsec.cli import exits, output
from dbsec.cli.home import home
from dbsec.cli.migrate import inputs
from dbsec.errors import DbsecError
from dbsec.findings import Severity
from dbsec.migrations import facts as measured
from dbsec.migrations.oracle import trace as oracle
from dbsec.migrations.reading import source
from dbsec.migrations.script import Unread, Wrap
from dbsec.pg import Conninfo
from dbsec.progress import Progress
from dbsec.report.findings import NotRead

if TYPE_CHECKING:
    from dbsec.migrations.effects.model import Effect
    from dbsec.migrations.oracle.trace import Traced
    from dbsec.pg.binaries import Source


@contextmanager
def server(postgres: Source, dsn: str | None, progress: Progress) -> Iterator[Conninfo]:
    """Give the way into the server that ``dsn`` refers to, else into one that is started for this and deleted."""
    if dsn is not None:
        yield inputs.conninfo_of(dsn)
        return
    from dbsec.lab import account, ports
    from dbsec.migrations.oracle import ephemeral
    from dbsec.pg import binaries

    programs = home() / "programs"
    found = binaries.find(postgres, cache=programs / "pg0")
    place = ephemeral.Place(programs, account.server_account(progress), ports.free(1)[0])
    with ephemeral.server(found, place, progress=progress) as conninfo:
        yield conninfo


def run(
    paths: Sequence[str],
    *,
    schema: Path | None,
    dsn: str | None,
    postgres: Source,
    existing: bool,
    changed_since: str | None,
    wrap: Wrap | None,
    as_json: bool,
) -> int:
    """Replay, tell, and return the exit code."""
    paths = inputs.paths_of(paths)
    stdin = inputs.stdin_text() if "-" in paths else None
    text = inputs.schema_text(schema) if schema is not None else None
    scripts, unread = source.read(paths, stdin=stdin, changed_since=changed_since, wrap=wrap)
    with output.progress() as progress, server(postgres, dsn, progress) as scratch, inputs.refusals():
        missed: list[Unread] = []
        roles = dsn is None  # on a server of somebody else no role is made
        traced = oracle.trace(
            scripts, schema_sql=text, scratch=scratch, roles=roles, existing=existing, unread=missed, progress=progress
        )
    unread += [replace(one, path=str(schema)) if schema and one.path == "schema" else one for one in missed]
    if as_json:
        findings = [finding.to_json() for one in traced for finding in one.findings()]
        not_read = [asdict(NotRead(one.path, one.line, one.reason, one.hint)) for one in unread]
        statements = [one.to_json() for one in traced]
        output.envelope("migrate trace", findings=findings, statements=statements, unread=not_read)
    else:
        sys.stdout.write("".join(map(_paragraph, traced)) + _summary(traced))
    for one in unread:
        exits.say(DbsecError(str(one), hint=one.hint))
    return _code(traced, unread)


def _code(traced: Sequence[Traced], unread: Sequence[Unread]) -> int:
    if unread:
        return exits.COULD_NOT_TELL
    wrong = any(finding.severity is Severity.ERROR for one in traced for finding in one.findings())
    return exits.FINDINGS if wrong or any(one.error for one in traced) else exits.CLEAN


def _paragraph(traced: Traced) -> str:
    statement = traced.statement
    first, _, rest = statement.text.partition("\n")
    lines = [f"{statement.script.path}:{statement.line}: {first}{' …' if rest else ''}"]
    lines.append(f"    static says:     {_said(traced.foretold)}")
    if traced.observed is not None:
        lines.append(f"    PostgreSQL says: {_said(traced.observed)} ({1000 * traced.seconds:.0f} ms)")
    elif traced.error is not None:
        lines.append(f"    PostgreSQL says: refused, {traced.error[0]}: {traced.error[1]}")
    else:
        lines.append("    PostgreSQL says: nothing, it was not run")
    lines += [f"    blocks: {_held(traced)}"] if traced.blocking else []
    lines += [f"    disagrees: {text}" for text in traced.disagreements]
    return "\n".join(lines) + "\n\n"


def _held(traced: Traced) -> str:
    if any(
        mode.blocks_reads for name, mode in (traced.observed.locks if traced.observed else ()) if name in traced.old
    ):
        return "reads and writes of a table that was there before, while it works"
    return "writes of a table that was there before, while it works"


def _said(effect: Effect) -> str:
    if effect.fails:
        return f"fails: {effect.fails}"
    parts = [f"{mode.sql} on {name}" for name, mode in effect.locks] or ["no lock on a table"]
    parts += [f"{task.work} of {task.table}" for task in effect.work] or ["metadata only"]
    parts += [f"proof: {proof}" for proof in effect.proofs]
    return "; ".join(parts) + ("; not sure without the schema" if effect.unsure else "")


def _summary(traced: Sequence[Traced]) -> str:
    blocking = sum(one.blocking for one in traced)
    failed = sum(one.error is not None for one in traced)
    parted = sum(len(one.disagreements) for one in traced)
    told = f"{blocking} that block while they work, {failed} refused, {parted} times the linter and PostgreSQL disagree"
    return f"{len(traced):,} {'statement' if len(traced) == 1 else 'statements'}: {told}\n"


def facts(postgres: Source, dsn: str | None, folder: Path | None) -> None:
    """Measure the cases, and write them into a folder or print them."""
    with output.progress() as progress, server(postgres, dsn, progress) as admin, inputs.refusals():
        found: dict[str, Any] = measured.measure(admin, progress=progress)
    if folder is None:
        output.envelope("migrate facts", result=found)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for path in measured.dump(found, folder):
        print(path)
