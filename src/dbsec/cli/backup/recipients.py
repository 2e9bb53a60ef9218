"""``dbsec backup recipient new | show``: hosts that seal and cannot open."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import output
from dbsec.cli.backup import _evidence as evidence
from dbsec.cli.backup import _options as options
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format

if TYPE_CHECKING:
    from dbsec.backup.recipients import Recipient
    from dbsec.evidence import Observation

_GROUP = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def add(command: typer.Typer) -> None:
    """Add ``recipient``."""
    command.add_typer(_GROUP, name="recipient", help="Hosts that seal and cannot open: make and show their keys.")


@_GROUP.command()
def new(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the content key goes, for that host.")],
    config: options.File = None,
    evidence_file: evidence.File = None,
    form: As = Format.TEXT,
) -> None:
    """Make an X25519 pair: the private half is wrapped by the KMS and stays in the repository.

    The public half is printed; the content key, by which the host compares and vouches, goes to FILE (0600).
    """
    from dbsec import files
    from dbsec.backup.key_notes import make_recipient
    from dbsec.errors import UsageError

    if out.exists():
        raise UsageError(f"'{out}' is there already", hint="name a new file")
    repository = options.repository(options.settings_of(config))
    control = evidence.control(
        "WRITE-ONLY", "A host that seals cannot open", "who takes the server over reads its backups"
    )
    act = lambda: make_recipient(repository)  # noqa: E731
    made = evidence.recorded(evidence_file, control, "recipient new", act, _judge)
    files.write_atomic(out, repository.keys.content().hex() + "\n")
    if form is Format.JSON:
        told = {"recipient": made.public.hex(), "holder": made.holder, "content_key": str(out)}
        output.envelope("backup recipient new", result=told)
        return
    print(made.public.hex())
    typer.echo(f'in dbsec.toml of the host: [backup] recipient = "{made.public.hex()}"', err=True)
    typer.echo(f'  content_key = "file:{out}", and no kms', err=True)


@_GROUP.command()
def show(config: options.File = None, form: As = Format.TEXT) -> None:
    """List the recipients; the KMS opens each private key to tell its public half."""
    from dbsec.backup.recipients import recipients

    repository = options.repository(options.settings_of(config))
    found = recipients(repository.keys)
    if form is Format.JSON:
        output.envelope("backup recipient show", result={"recipients": [asdict(one) for one in found]})
        return
    for one in found:
        print(f"{one.public}  {one.holder}, made {one.created}, {one.epochs:,} epochs, held by {', '.join(one.keks)}")
    if not found:
        print("no recipient: dbsec backup recipient new --out FILE")


def _judge(made: Recipient) -> Observation:
    from dbsec.evidence import Observation, Outcome

    return Observation(Outcome.PASS, f"the recipient {made.holder} was made", {"public": made.public.hex()})
