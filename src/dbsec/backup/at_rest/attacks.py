"""Attacks on a disk: what a thief reads below a server, and a key that should have been ended."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any, Final

from dbsec import files
from dbsec.backup.at_rest import offers, proof
from dbsec.backup.at_rest.checking import NOT_PROTECTED
from dbsec.backup.at_rest.errors import CannotEncrypt
from dbsec.backup.at_rest.luks import Cost, Key, Luks, need_cryptsetup
from dbsec.backup.at_rest.proof import Bench, Found
from dbsec.backup.at_rest.rotating import rotate
from dbsec.errors import ProgramMissing
from dbsec.evidence import Control, Drill, Observation, Outcome

AT_REST = Control(
    "BAK-AT-REST",
    "Whoever takes the disk below the server reads no row",
    "a disk that is replaced, resold or copied by its host has every row of every tenant, WAL and temporary files",
    ("NIST SP 800-53 SC-28(1)", "NIST SP 800-53 MP-6", "OWASP A02:2021"),
)
LUKS_SLOT = Control(
    "BAK-LUKS-SLOT",
    "A volume's key that was replaced opens it no more",
    "cryptsetup luksAddKey replaces nothing: the old passphrase, and every copy of the header, opens for ever",
    ("NIST SP 800-57 8.3", "NIST SP 800-53 SC-12"),
)
_VOLUME_BYTES: Final = 20 << 20
_CHEAP: Final = Cost(1000)  # the keys are random


@dataclass(frozen=True, slots=True)
class DiskTarget:
    """``folder`` is one that the server's account may enter: it is made. ``hardened``: after the controls."""

    bench: Bench
    folder: Path
    hardened: Callable[[], bool]


def drills(target: DiskTarget) -> tuple[Drill, ...]:
    """Return the attacks; each makes what it attacks. Where a machine can do none of it, they SKIP and say why."""
    return (
        Drill(AT_REST, "search the disk below a server for a row", lambda: _searched(target)),
        Drill(LUKS_SLOT, "open a volume with the key from before", lambda: _opened(target)),
        Drill(LUKS_SLOT, "open a volume with an old copy of its header", lambda: _opened(target, by_header=True)),
    )


@contextmanager
def _work(target: DiskTarget) -> Iterator[Path]:
    """Make a folder for one attack, and take it away; it stays where something is still mounted in it."""
    work = target.folder / f"disk-{secrets.token_hex(4)}"
    files.make_folder(target.folder, mode=0o755)
    files.make_folder(work, mode=0o755)
    yield work
    rmtree(work)


def _searched(target: DiskTarget) -> Observation:
    offered = offers.probe()
    if all(one.why_not for one in offered):
        reasons = "; ".join(f"{one.name}: {one.why_not}" for one in offered)
        return Observation(Outcome.SKIP, f"this machine can encrypt no folder: {reasons}", {})
    with _work(target) as work:
        if not target.hardened():
            template = proof.make_template(target.bench, work)
            files.make_folder(plain := work / "plain", mode=0o755)
            _, found = proof.written(target.bench, template, plain, plain)
            return _told(found, found, {"means": "none"})
        proof.make_key(work / "lab.key")
        try:
            with offers.strongest(work, work / "lab.key") as up:
                template = proof.make_template(target.bench, work)
                view, raw = proof.written(target.bench, template, up.raised.inside, up.raised.medium)
        except CannotEncrypt as exc:
            return Observation(Outcome.SKIP, exc.message, {"offers": [asdict(one) for one in offers.probe()]})
    stronger = {one.name: one.why_not for one in up.refused}
    return _told(view, raw, {"means": up.means.name, "label": up.means.label, "not_here": stronger})


def _told(view: Found, raw: Found, facts: dict[str, Any]) -> Observation:
    told = {**facts, "view": asdict(view), "raw": asdict(raw), "does_not_protect": NOT_PROTECTED}
    if not view.hits:
        return Observation(Outcome.ERROR, "the row is not even where the server keeps it: nothing was attacked", told)
    size = f"{raw.files:,} files, {raw.bytes >> 20:,} MiB"
    if raw.hits:
        return Observation(Outcome.FAIL, f"rows stand in clear {raw.hits:,} times in {size}", told)
    return Observation(Outcome.PASS, f"{facts['means']}: nothing of them in {size}; {NOT_PROTECTED}", told)


def _opened(target: DiskTarget, *, by_header: bool = False) -> Observation:
    """Before: the team added a key, as most guides say. After: the key was rotated."""
    try:
        version = need_cryptsetup()
    except ProgramMissing as exc:
        return Observation(Outcome.SKIP, str(exc))
    with _work(target) as work:
        old, new = (Key(secrets.token_bytes(32)) for _ in range(2))
        luks, copy, headers = Luks(work / "volume.img"), work / "old.header", work / "headers"
        with luks.device.open("xb") as stream:
            stream.truncate(_VOLUME_BYTES)
        luks.format(old, cost=_CHEAP)
        files.make_folder(headers, mode=0o700)
        if not luks.opens(old):
            return Observation(Outcome.ERROR, "the key opened nothing before: nothing was attacked")
        if target.hardened():
            rotate(luks, old, new, headers, cost=_CHEAP)
        else:
            luks.back_up_header(copy)
            luks.add(old, new, cost=_CHEAP)
        tried = sorted([*headers.glob("*.header"), *work.glob("*.header")]) if by_header else [luks.device]
        opened = [path.name for path in tried if Luks(path).opens(old)]
        facts = {"cryptsetup": version, "tried": [path.name for path in tried], "new_opens": luks.opens(new)}
    what = "a copy of the header" if by_header else "the volume"
    if opened:
        return Observation(Outcome.FAIL, f"the key from before opens {what}", {**facts, "opened": opened})
    if not facts["new_opens"]:
        return Observation(Outcome.ERROR, "no key opens the volume: it is lost, not rotated", facts)
    return Observation(Outcome.PASS, f"the key from before is refused by {what} (cryptsetup ends with 2)", facts)
