"""The means to encrypt a folder that this machine may have, the strongest first, and which of them come up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dbsec import discovery, files, process
from dbsec.backup.at_rest import means
from dbsec.backup.at_rest.errors import CannotEncrypt
from dbsec.errors import ProgramError, UsageError


@dataclass(frozen=True, slots=True)
class Raised:
    """``inside`` is where a server may put its data; ``medium`` is what a thief of the disk has of it.

    ``undo`` are the commands that take it down, also long after, in order.
    """

    inside: Path
    medium: Path
    undo: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Means:
    """One way to encrypt a folder; a file of ``means/`` adds one.

    ``probe`` returns why this machine cannot, or nothing; it changes nothing. ``up`` makes an encrypted folder below an
    empty one, under the key in a private file, and leaves nothing mounted where it fails. ``label`` is what must be
    said wherever it is offered. Errors of ``up``: ``CannotEncrypt``, ``ProgramError``, ``OSError``.
    """

    order: int
    name: str
    label: str
    probe: Callable[[], str]
    up: Callable[[Path, Path], Raised]


@dataclass(frozen=True, slots=True)
class Offer:
    """A means, and why it is not to be had here; empty where it is."""

    name: str
    label: str
    why_not: str


@dataclass(frozen=True, slots=True)
class Strongest:
    """What came up. ``refused`` are the stronger ones, each with its reason."""

    means: Means
    raised: Raised
    refused: tuple[Offer, ...]


def all_means() -> list[Means]:
    """Return every means, the strongest first."""
    return sorted(discovery.constants_in(means, "MEANS").values(), key=lambda one: one.order)


def probe() -> list[Offer]:
    """Ask each means whether this machine has what it needs."""
    return [Offer(one.name, one.label, one.probe()) for one in all_means()]


def raise_strongest(folder: Path, key: Path, *, only: str = "") -> Strongest:
    """Bring up the strongest means below a folder, or the one that is named.

    One that a probe let pass and that does not come up is said, and the next is tried. Errors: ``CannotEncrypt`` where
    none comes up, ``UsageError`` for a name that there is not.
    """
    known = all_means()
    if only and only not in (names := [one.name for one in known]):
        raise UsageError(f"there is no means '{only}'", hint=", ".join(names))
    refused: list[Offer] = []
    for one in known:
        if only in ("", one.name):
            why = one.probe()
            found = None if why else _tried(one, folder, key)
            if isinstance(found, Raised):
                return Strongest(one, found, tuple(refused))
            refused.append(Offer(one.name, one.label, why or str(found)))
    told = "; ".join(f"{one.name}: {one.why_not}" for one in refused)
    raise CannotEncrypt(f"this machine encrypts no folder: {told}", hint="as root: apt-get install gocryptfs fuse3")


def _tried(one: Means, folder: Path, key: Path) -> Raised | str:
    place = folder / one.name
    files.make_folder(place, mode=0o755)
    try:
        return one.up(place, key)
    except (CannotEncrypt, ProgramError, OSError) as exc:
        shutil.rmtree(place, ignore_errors=True)
        return str(exc)


def take_down(raised: Raised) -> None:
    """Unmount, and delete the medium. Errors: ``ProgramError`` where it is in use; nothing is deleted then."""
    for command in raised.undo:
        process.run(command, cwd=Path("/"), timeout_s=60)
    if os.path.ismount(raised.inside) or os.path.ismount(raised.inside.parent):
        raise ProgramError(f"'{raised.inside}' is still mounted", hint=f"findmnt -T {raised.inside}")
    place = raised.medium.parent
    shutil.rmtree(place)


@contextmanager
def strongest(folder: Path, key: Path, *, only: str = "") -> Iterator[Strongest]:
    """Have the strongest means while the block runs. Errors: those of ``raise_strongest`` and ``take_down``."""
    found = raise_strongest(folder, key, only=only)
    try:
        yield found
    finally:
        take_down(found.raised)
