"""``dbsec at-rest lab``: the strongest encryption that this machine can do, and its proof by a marker."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbsec.cli import exits, output
from dbsec.cli.migrate.options import As, Postgres, Source
from dbsec.cli.output import Format
from dbsec.errors import UsageError

if TYPE_CHECKING:
    from dbsec.backup.at_rest.offers import Offer, Strongest
    from dbsec.backup.at_rest.proof import Bench, Proof


def add(command: typer.Typer) -> None:
    """Add ``lab``."""
    command.command()(lab)


def lab(
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="An empty folder, or one to be made; else only tell.")
    ] = None,
    means: Annotated[str, typer.Option("--means", help="This one, and no other.")] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Leave it mounted; its key lies beside it.")] = False,
    postgres: Postgres = Source.WHEEL,
    form: As = Format.TEXT,
) -> None:
    """Bring up the strongest encryption that this machine can do, and prove it by a marker.

    A real PostgreSQL writes rows on it; then they are looked for on the raw medium below, and on a plain folder. Exit
    code 0: found on the plain one alone; 1: found on the medium; 3: this machine encrypts no folder.
    """
    from dbsec.backup.at_rest import offers

    if to is None:
        _tell_offers(offers.probe(), form)
        return
    from dbsec.backup.at_rest import proof

    folder = to.absolute()
    bench = _bench(folder, postgres)
    key = folder / "lab.key"
    proof.make_key(key)
    with ExitStack() as up, output.progress() as progress:
        up.callback(key.unlink)
        found = offers.raise_strongest(folder, key, only=means)
        up.callback(offers.take_down, found.raised)
        proven = proof.prove(bench, folder, found, progress=progress)
        if keep:
            up.pop_all()
    _tell(proven, found if keep else None, form)
    if not proven.holds:
        raise typer.Exit(exits.FINDINGS)


def _bench(folder: Path, postgres: Source) -> Bench:
    """Make the folder, and find what is to run in it. Errors: ``UsageError``, ``ProgramMissing``, ``LabError``."""
    from dbsec import files
    from dbsec.backup.at_rest.proof import Bench
    from dbsec.cli.home import home
    from dbsec.cli.migrate.inputs import source_of
    from dbsec.lab import account, ports
    from dbsec.pg.binaries import find
    from dbsec.progress import Lines

    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"'{folder}' is not empty", hint="name a new folder")
    who = account.server_account(Lines(sys.stderr))
    files.make_folder(folder, mode=0o755)
    if not account.may_enter(who, folder):
        raise UsageError(f"the server's account '{who.name}' may not enter '{folder}'", hint="--to /var/lib/dbsec/lab")
    programs = home() / "programs"
    binaries = find(source_of(postgres), cache=programs)
    if not binaries.runnable_by(who):
        binaries = binaries.copied_to(programs / f"at-rest-{binaries.major}")
    return Bench(binaries, who, partial(_port, ports.free))


def _port(free: Any) -> int:
    return int(free(1)[0])


def _tell_offers(found: list[Offer], form: Format) -> None:
    if form is Format.JSON:
        output.envelope("at-rest lab", result={"offers": [asdict(one) for one in found]})
        return
    for one in found:
        print(f"{one.name:<10} {'no: ' + one.why_not if one.why_not else 'may be tried: --to DIR'}")
        print(f"{'':<10} {one.label}")


def _tell(proven: Proof, kept: Strongest | None, form: Format) -> None:
    from dbsec.backup.at_rest.checking import NOT_PROTECTED

    undo = [shlex.join(command) for command in kept.raised.undo] if kept else []
    inside = str(kept.raised.inside) if kept else ""
    if form is Format.JSON:
        told = {**asdict(proven), "holds": proven.holds, "inside": inside, "undo": undo}
        output.envelope("at-rest lab", result={**told, "does_not_protect": NOT_PROTECTED})
        return
    for one in proven.refused:
        print(f"not here: {one.name}: {one.why_not}")
    print(f"{proven.means}: {proven.label}")
    for name, found in (("a plain folder", proven.plain), ("the view", proven.view), ("the raw medium", proven.raw)):
        print(f"  marker in {name}: {found.hits:,} times in {found.files:,} files, {found.bytes >> 20:,} MiB")
    print(f"  dbsec at-rest check says: {proven.seen.verdict}: {proven.seen.how}")
    print(f"  {NOT_PROTECTED}")
    if kept:
        print(f"  kept at {inside}, for a lab only: its key lies beside it; to end it: {'; '.join(undo)}")
