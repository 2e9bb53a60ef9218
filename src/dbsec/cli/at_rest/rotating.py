"""``dbsec at-rest rotate-luks-key``: another key for a LUKS volume, the old one gone for certain."""

from __future__ import annotations

import os
import stat
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import exits, output
from dbsec.cli.backup import _evidence as evidence
from dbsec.cli.backup._options import Apply
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.errors import ConfigError

if TYPE_CHECKING:
    from dbsec.backup.at_rest import Key, Rotated, RotationPlan
    from dbsec.evidence import Observation

_KEY_FILE = "key-file"


def add(command: typer.Typer) -> None:
    """Add ``rotate-luks-key``."""
    command.command()(rotate_luks_key)


def rotate_luks_key(
    device: Annotated[Path, typer.Argument(metavar="DEVICE", help="A device or file with a LUKS header.")],
    old: Annotated[
        str, typer.Option("--old", metavar="REF", help="The passphrase as file:PATH or env:NAME, or key-file:PATH.")
    ],
    new: Annotated[str, typer.Option("--new", metavar="REF", help="The new one, in the same way.")],
    headers: Annotated[
        Path, typer.Option("--headers", metavar="DIR", help="A private folder on another disk, for the header's copy.")
    ],
    iterations: Annotated[
        int | None,
        typer.Option(min=1000, help="PBKDF2 with so many, where the new key is random; else Argon2id as it comes."),
    ] = None,
    evidence_file: evidence.File = None,
    apply: Apply = False,
    form: As = Format.TEXT,
) -> None:
    """Add a key, prove that it opens, then destroy the old one's slots and prove that it is refused.

    The volume may be in use. A run that was killed is finished by the same command. file: and env: are a passphrase,
    without a last newline; of key-file: every byte counts. Exit code 0: done; 1: a copy of the header, in the same
    folder, still opens for the old key; 2: a key that opens nothing; 3: could not tell.
    """
    from dbsec.backup.at_rest import Cost, Luks, plan_rotation, rotate
    from dbsec.backup.at_rest.attacks import LUKS_SLOT

    luks, was, now = Luks(device), _key(old), _key(new)
    if not apply:
        _tell_plan(plan_rotation(luks, was, now), form)
        return
    act = partial(rotate, luks, was, now, headers, cost=Cost(iterations))
    done = evidence.recorded(evidence_file, LUKS_SLOT, "rotate-luks-key", act, _judge)
    _tell(done, form)
    if done.stale:
        raise typer.Exit(exits.FINDINGS)


def _key(reference: str) -> Key:
    """Read a key. Errors: ``ConfigError``, without a byte of it."""
    from dbsec.backup.at_rest import Key
    from dbsec.secret import resolve

    scheme, _, rest = reference.partition(":")
    if scheme != _KEY_FILE:
        return Key(resolve(reference, environ=os.environ).reveal().encode())
    path = Path(rest)
    try:
        mode, raw = path.stat().st_mode, path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"cannot read key file '{path}': {exc.strerror}", hint=f"ls -l {path}") from exc
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"key file '{path}' may be read by others", hint=f"chmod 600 {path}")
    return Key(raw)


def _judge(done: Rotated) -> Observation:
    from dbsec.evidence import Observation, Outcome

    said = "the new key opens, the old one is refused"
    if done.stale:
        said += f", but {len(done.stale)} copies of the header still open for it"
    told = {**asdict(done), "header": str(done.header), "stale": [str(path) for path in done.stale]}
    return Observation(Outcome.FAIL if done.stale else Outcome.PASS, said, told)


def _tell_plan(found: RotationPlan, form: Format) -> None:
    if form is Format.JSON:
        output.envelope("at-rest rotate-luks-key", result={"applied": False, **asdict(found), "steps": found.steps()})
        return
    print(f"'{found.device}', LUKS {found.uuid}: the old key opens slot {_slots(found.old_slots)}")
    if found.others:
        print(f"  slot {_slots(found.others)} opens for neither key, and stays")
    for kind, slots in found.tokens.items():
        print(f"  slot {_slots(slots)} belongs to {kind}")
    for number, step in enumerate(found.steps(), 1):
        print(f"  {number}. {step}")
    print("  nothing was changed; to do it: --apply")


def _tell(done: Rotated, form: Format) -> None:
    if form is Format.JSON:
        output.envelope("at-rest rotate-luks-key", result={"applied": True, **asdict(done)})
        return
    removed = f"slot {_slots(done.removed)} is destroyed" if done.removed else "the old key's slot was gone before"
    print(f"LUKS {done.uuid}: slot {_slots(done.new_slots)} opens for the new key; {removed}, the old key is refused")
    print(f"  header: {done.header}")
    for path in done.stale:
        print(f"  BAK206 {path} opens for the old key: with it the volume does, too\n    fix: shred -u {path}")


def _slots(slots: tuple[int, ...]) -> str:
    return ", ".join(map(str, slots)) or "none"
