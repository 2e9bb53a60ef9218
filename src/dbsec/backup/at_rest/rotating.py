"""Another key for a LUKS volume: the new slot is proven before the old one goes, whatever is killed in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dbsec import files, journal
from dbsec.backup.at_rest.errors import SlotInDanger, WrongPassphrase
from dbsec.backup.at_rest.luks import Cost, Key, Luks, need_cryptsetup
from dbsec.errors import ProgramError, UsageError
from dbsec.journal import Journal, Observer

_HEADER = ".header"
_LAST = "delete the old header"


@dataclass(frozen=True, slots=True)
class RotationPlan:
    """What will be done. ``old_slots`` go, ``others`` stay; ``new_slots`` is empty where the key is yet to be added."""

    device: Path
    uuid: str
    old_slots: tuple[int, ...]
    new_slots: tuple[int, ...]
    others: tuple[int, ...]
    tokens: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def steps(self) -> tuple[str, ...]:
        """Say the steps in order, a sentence each."""
        add = () if self.new_slots else ("add the new key to a free slot",)
        gone = ", ".join(map(str, self.old_slots))
        old = (f"destroy slot {gone}", "try the old key: it must be refused") if self.old_slots else ()
        proof = "try the new key: it must open"
        return ("copy the header", *add, proof, *old, "copy the header anew, and delete the copy from before")


@dataclass(frozen=True, slots=True)
class Rotated:
    """What is proven. ``stale`` are copies of the header, in the folder of this one, that the old key still opens."""

    uuid: str
    new_slots: tuple[int, ...]
    removed: tuple[int, ...]
    others: tuple[int, ...]
    header: Path
    stale: tuple[Path, ...]


def plan_rotation(luks: Luks, old: Key, new: Key) -> RotationPlan:
    """Look which slots the keys open, and change nothing.

    Errors: ``NotLuks``, ``UsageError`` for two equal keys, ``WrongPassphrase`` where neither opens.
    """
    need_cryptsetup()
    if old == new:
        raise UsageError("the new key is the old one", hint="head -c 32 /dev/urandom | base64 > FILE")
    uuid = luks.uuid()
    was, now = luks.opened_by(old), luks.opened_by(new)
    if not was and not now:
        raise WrongPassphrase(f"neither key opens '{luks.device}'", hint=f"cryptsetup luksDump {luks.device}")
    others = tuple(slot for slot in luks.slots() if slot not in (*was, *now))
    return RotationPlan(luks.device, uuid, was, now, others, luks.tokens())


def rotate(
    luks: Luks, old: Key, new: Key, headers: Path, *, cost: Cost | None = None, observer: Observer | None = None
) -> Rotated:
    """Give a volume a new key and end the old one; a run that was killed is finished by the same call.

    ``headers`` is a private folder, on another disk, for the journal and the copy of the header. Locks: flock on the
    journal. Errors: ``WrongPassphrase``, ``SlotInDanger``, ``JournalError``, ``ProgramError``.
    """
    found = plan_rotation(luks, old, new)
    _must_be_apart(luks, headers)
    path = headers / f"{found.uuid}.journal"
    if _ended(path):
        path.unlink()  # killed after its last step: this job is another
    with journal.open_file(path, observer=observer) as steps:
        done = _rotated(luks, old, new, _Copies(headers, found.uuid), steps, found, cost)
    path.unlink()
    files.sync_folder(headers)
    return done


def _ended(path: Path) -> bool:
    if not path.exists():
        return False
    with journal.open_file(path) as steps:
        return _LAST in steps.done()


def _must_be_apart(luks: Luks, headers: Path) -> None:
    """Refuse a folder that others may enter: a copy of the header is all that guessing needs."""
    if not headers.is_dir():
        raise UsageError(f"there is no folder '{headers}' for the header's copy", hint=f"mkdir -m 700 {headers}")
    if headers.stat().st_mode & 0o077:
        raise UsageError(f"folder '{headers}' is open to others", hint=f"chmod 700 {headers}")
    if luks.device.is_file() and luks.device.parent == headers:
        raise UsageError("the header's copy must not lie beside the volume", hint="name a folder on another disk")


@dataclass(frozen=True, slots=True)
class _Copies:
    """The copies of a volume's header in a folder: ``before`` while the rotation runs, ``now`` when it has ended."""

    folder: Path
    uuid: str

    @property
    def before(self) -> Path:
        return self.folder / f"{self.uuid}.before{_HEADER}"

    @property
    def now(self) -> Path:
        return self.folder / f"{self.uuid}{_HEADER}"

    def take(self, luks: Luks, target: Path) -> None:
        """Copy the header; a copy that a kill has cut short is replaced, and none is half there."""
        part = target.with_suffix(".part")
        part.unlink(missing_ok=True)
        luks.back_up_header(part)
        part.replace(target)
        files.sync_folder(self.folder)

    def opened_by(self, key: Key) -> tuple[Path, ...]:
        """Return the copies that a key opens; what cannot be tried counts as one that it opens."""
        return tuple(path for path in sorted(self.folder.glob(f"*{_HEADER}")) if _opens(Luks(path), key))


def _opens(luks: Luks, key: Key) -> bool:
    try:
        return luks.opens(key)
    except ProgramError:
        return True


def _rotated(
    luks: Luks, old: Key, new: Key, copies: _Copies, steps: Journal, found: RotationPlan, cost: Cost | None
) -> Rotated:
    def add() -> None:
        if not luks.opened_by(new):  # killed after it was added
            luks.add(old, new, cost=cost)

    steps.run("copy the header", lambda: copies.take(luks, copies.before))
    steps.run("add the new key", add)
    slots = _proven(luks, new, copies)
    removed = steps.run("destroy the old slots", lambda: _destroyed(luks, old, new))
    _must_refuse(luks, old, new)
    steps.run("copy the new header", lambda: copies.take(luks, copies.now))
    # it opens for the old key, whatever happened to the volume's own slots
    steps.run(_LAST, lambda: copies.before.unlink(missing_ok=True))
    others = tuple(slot for slot in luks.slots() if slot not in slots)
    return Rotated(found.uuid, slots, tuple(removed), others, copies.now, copies.opened_by(old))


def _proven(luks: Luks, new: Key, copies: _Copies) -> tuple[int, ...]:
    """Try the new key in every run: a journal's word is no proof."""
    if opened := luks.opened_by(new):
        return opened
    hint = f"give the new key of the run that was killed; where it is lost: rm {copies.folder / copies.uuid}.journal"
    raise SlotInDanger(f"the new key does not open '{luks.device}': the old one stays", hint=hint)


def _destroyed(luks: Luks, old: Key, new: Key) -> list[int]:
    """Destroy what the old key opens, one by one, each while the new one is seen to open another.

    cryptsetup itself asks for no such thing: it takes the last slot away without a word.
    """
    gone = []
    for slot in luks.opened_by(old):
        keeps = [other for other in luks.opened_by(new) if other != slot]
        if not keeps:
            raise SlotInDanger(f"slot {slot} is the only one that is proven to open", hint="add the new key first")
        luks.kill(slot)
        gone.append(slot)
    return gone


def _must_refuse(luks: Luks, old: Key, new: Key) -> None:
    """Try both for a last time: what a journal says of them is no proof."""
    if not luks.opens(new):
        raise SlotInDanger(f"the new key does not open '{luks.device}'", hint="restore the header's copy")
    if luks.opens(old):
        raise SlotInDanger(f"the old key still opens '{luks.device}'", hint="run it again")
