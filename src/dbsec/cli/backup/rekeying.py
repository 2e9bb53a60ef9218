"""``dbsec backup rekey``: every key under a new KEK or a new version of it, and the proof that this one is enough."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.backup import _evidence as evidence
from dbsec.cli.backup import _options as options
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from dbsec.backup import BackupSettings, Repository
    from dbsec.backup.proving import Proof
    from dbsec.backup.rekey import Rekeyed, Survey, Targets
    from dbsec.evidence import Observation
    from dbsec.progress import Progress

_OLDER = (
    "the first objects of epochs and older pages still hold wraps under the old KEK: they are never changed. To retire "
    "it is to destroy it at the KMS; these wraps are useless then, and nothing else is to be done"
)


def add(command: typer.Typer) -> None:
    """Add ``rekey``."""
    command.command()(rekey)


def rekey(
    config: options.File = None,
    to: Annotated[str | None, typer.Option("--to", metavar="URI", help="The new KEK; else [backup] kms.")] = None,
    old: Annotated[str | None, typer.Option("--from", metavar="URI", help="The old KEK; else [backup] kms.")] = None,
    rotate_kek: Annotated[bool, typer.Option("--rotate-kek", help="Add a version to the KEK first.")] = False,
    admin: Annotated[
        str | None, typer.Option("--admin", metavar="URI", help="With --rotate-kek: the KMS as its administrator.")
    ] = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Then open a frame of every object under the new KEK alone.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Objects that are proven at once.")] = 8,
    evidence_file: evidence.File = None,
    apply: options.Apply = False,
    form: As = Format.TEXT,
) -> None:
    """Wrap every key anew: for another KEK, a new version of it, or an escrow that was added. No data is touched.

    A run that was broken off is run again. After --to, set [backup] kms to the new KEK, restart what archives, and run
    it once more with --from the old one: epochs that were begun meanwhile. Exit code 0: done, and with --prove all
    opens; 1: something does not; 3: store or KMS away.
    """
    if to and old:
        raise UsageError("--to and --from: one of them is [backup] kms", hint="dbsec backup rekey --to URI")
    settings = options.settings_of(config)
    if not settings.kms and not old:
        raise ConfigError("[backup] names no kms: this host only writes", hint="run it where the keys are administered")
    source = options.repository(settings.model_copy(update={"kms": old}) if old else settings)
    if apply and rotate_kek:
        _rotate(admin or to or settings.kms)
    targets = _targets(settings, to)
    if not apply and not prove:
        _plan(source, targets, form, rotate=rotate_kek)
        return
    with output.progress() as progress:
        done = _rekeyed(source, targets, progress, evidence_file) if apply else None
        again = evidence_file.with_suffix(f".proof{evidence_file.suffix}") if evidence_file and apply else evidence_file
        proof = _proven(source, targets, workers, progress, again) if prove else None
    _tell(done, proof, form)
    if (done and done.failed) or (proof and not proof.proven):
        raise typer.Exit(exits.FINDINGS)


def _targets(settings: BackupSettings, to: str | None) -> Targets:
    from dbsec.backup.rekey import Targets
    from dbsec.kms import open_kms

    escrow = open_kms(settings.escrow, environ=os.environ) if settings.escrow else None
    return Targets(open_kms(to or settings.kms, environ=os.environ), escrow)


def _rotate(uri: str) -> None:
    from dbsec.kms import open_admin
    from dbsec.kms.uri import TENANT

    if TENANT in uri:
        raise UsageError("a KEK by month is new each month: there is none to rotate for all")
    open_admin(uri, environ=os.environ).rotate()


def _plan(source: Repository, targets: Targets, form: Format, *, rotate: bool) -> None:
    from dbsec.backup.rekey import survey

    with output.progress() as progress:
        found = survey(source.keys, targets, progress=progress)
    if form is Format.JSON:
        told = {"applied": False, "keys": found.keys, "stale": len(found.stale), "kept": found.kept}
        told |= {"for_recipient": found.for_recipient, "shredded": found.shredded, "rotate_kek": rotate}
        output.envelope("backup rekey", result={**told, "bad": found.bad, "keks": targets.keks})
        return
    _tell_survey(found, targets, rotate=rotate)


def _tell_survey(found: Survey, targets: Targets, *, rotate: bool) -> None:
    print(f"{len(found.stale):,} of {found.keys:,} keys would be wrapped for {', '.join(targets.keks)}")
    print(f"  {found.kept:,} are under it already; {found.shredded:,} are of shredded months")
    if found.for_recipient:
        print(f"  {found.for_recipient:,} epochs are for a recipient, whose private key is wrapped anew instead")
    if rotate:
        print("  the KEK would get a new version, and every key be wrapped under it")
    for name, why in found.bad:
        print(f"  not read: {name}: {why}")
    print("--apply does it; no object of data is read or written")


def _rekeyed(source: Repository, targets: Targets, progress: Progress, file: evidence.File) -> Rekeyed:
    from dbsec.backup.rekey import rekey

    def judge(done: Rekeyed) -> Observation:
        from dbsec.evidence import Observation, Outcome

        outcome = Outcome.FAIL if done.failed else Outcome.PASS
        return Observation(outcome, f"{done.rewrapped:,} keys were wrapped anew", evidence.facts(**asdict(done)))

    control = evidence.control("REKEY", "Backups change their KEK", "a KEK that was lost opens every backup for ever")
    return evidence.recorded(file, control, "rekey", lambda: rekey(source, targets, progress=progress), judge)


def _proven(source: Repository, targets: Targets, workers: int, progress: Progress, file: evidence.File) -> Proof:
    from dbsec.backup.proving import prove

    def judge(proof: Proof) -> Observation:
        from dbsec.evidence import Observation, Outcome

        said = f"{proof.objects:,} objects open under the new KEK alone, {len(proof.failed):,} do not"
        return Observation(Outcome.PASS if proof.proven else Outcome.FAIL, said, evidence.facts(**asdict(proof)))

    control = evidence.control(
        "PROVEN", "The new KEK alone opens every object", "the old KEK is retired, and backups are shut"
    )
    act = lambda: prove(source, targets, workers=workers, progress=progress)  # noqa: E731
    return evidence.recorded(file, control, "prove", act, judge)


def _tell(done: Rekeyed | None, proof: Proof | None, form: Format) -> None:
    if form is Format.JSON:
        shown = {**asdict(proof), "proven": proof.proven, "retirable": proof.retirable} if proof else None
        told = {"applied": done is not None, "rekey": asdict(done) if done else None, "proof": shown}
        output.envelope("backup rekey", result=told)
        return
    if done is not None:
        print(f"{done.rewrapped:,} keys rewrapped, {done.kept:,} were under it already: {', '.join(done.keks)}")
        for name, why in done.failed:
            print(f"dbsec: '{name}' was not rewrapped: {why}", file=sys.stderr)
    if proof is not None:
        _tell_proof(proof)


def _tell_proof(proof: Proof) -> None:
    print(f"{proof.keys:,} keys and {proof.objects:,} objects open under {', '.join(proof.keks)} alone")
    if proof.shredded:
        print(f"  {proof.shredded:,} objects are of shredded months")
    for name, why in proof.failed:
        print(f"dbsec: '{name}' does not open: {why}", file=sys.stderr)
    for kek, named in sorted(proof.others.items()):
        print(f"  {kek} is named by {named.newest:,} newest and {named.older:,} older wraps")
    for kek in proof.retirable:
        print(f"{kek} may be retired")
    if proof.retirable:
        print(f"  {_OLDER}")
    if not proof.proven:
        print("dbsec: retire no KEK: see above", file=sys.stderr)
