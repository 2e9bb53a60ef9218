"""cryptsetup on one LUKS volume: its slots, which key opens which, and copies of its header; keys by memory files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dbsec import process
from dbsec.backup.at_rest.errors import AtRestError, NotLuks, WrongPassphrase
from dbsec.errors import ProgramError, ProgramMissing

PROGRAM: Final = "cryptsetup"
_REFUSED: Final = 2  # cryptsetup(8), EXIT STATUS: no permission, which is a wrong passphrase
_INSTALL: Final = "apt-get install cryptsetup-bin"
_LUKS1_SLOT: Final = re.compile(r"^Key Slot (\d+): ENABLED$", re.MULTILINE)


class Key:
    """The bytes of a passphrase or key file; every byte counts, and none is printed."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def __repr__(self) -> str:
        return "<LUKS key>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._raw == other._raw

    def __hash__(self) -> int:
        return hash(("Key", self._raw))

    def __reduce__(self) -> str:
        raise TypeError("a LUKS key is not pickled")

    @contextmanager
    def lent(self) -> Iterator[int]:
        """Put the bytes into a file that only memory has, and give its descriptor while the block runs."""
        fd = os.memfd_create("dbsec-key", os.MFD_CLOEXEC)
        try:
            os.write(fd, self._raw)
            yield fd
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a guess at a passphrase costs. By default cryptsetup's own Argon2id, measured on the machine.

    ``iterations`` is PBKDF2 with so many, for tests and for keys that are random already.
    """

    iterations: int | None = None

    def options(self) -> tuple[str, ...]:
        """Return the options of cryptsetup."""
        if self.iterations is None:
            return ()
        return ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", str(self.iterations))


@dataclass(frozen=True, slots=True)
class Luks:
    """A device, or a file, with a LUKS header; needs no device mapper. ``timeout_s`` is for one call."""

    device: Path
    timeout_s: float = 300

    def format(self, key: Key, *, cost: Cost | None = None) -> None:
        """Write a new LUKS2 header with one slot: what was there is lost. Errors: ``AtRestError``."""
        self._run("luksFormat", "--batch-mode", "--type", "luks2", *(cost or Cost()).options(), keys=[key])

    def uuid(self) -> str:
        """Return the volume's own name. Errors: ``NotLuks``."""
        try:
            return self._run("luksUUID").strip()
        except ProgramError as exc:
            if exc.code is None:
                raise
            hint = f"lsblk -f {self.device}"
            raise NotLuks(f"'{self.device}' cannot be read as a LUKS volume: {exc.tail}", hint=hint) from exc

    def slots(self) -> tuple[int, ...]:
        """List the slots that hold a key, LUKS1 or LUKS2."""
        try:
            told = json.loads(self._run("luksDump", "--dump-json-metadata"))
        except ProgramError:
            return tuple(map(int, _LUKS1_SLOT.findall(self._run("luksDump"))))
        return tuple(sorted(map(int, told["keyslots"])))

    def tokens(self) -> dict[str, tuple[int, ...]]:
        """Return which slots a token opens (systemd-tpm2, clevis), by the token's kind; LUKS1 has none."""
        try:
            told = json.loads(self._run("luksDump", "--dump-json-metadata"))
        except ProgramError:
            return {}
        found: dict[str, tuple[int, ...]] = {}
        for one in told.get("tokens", {}).values():
            kind = str(one.get("type", "?"))
            found[kind] = (*found.get(kind, ()), *map(int, one.get("keyslots", ())))
        return found

    def opened_by(self, key: Key) -> tuple[int, ...]:
        """Return the slots that a key opens, each tried for itself: one passphrase may stand in several."""
        return tuple(slot for slot in self.slots() if self.opens(key, slot=slot))

    def opens(self, key: Key, *, slot: int | None = None) -> bool:
        """Try a key, and map nothing. Errors: ``ProgramError`` where cryptsetup could not tell."""
        if slot is None and not self.slots():
            return False
        where = () if slot is None else ("--key-slot", str(slot))
        try:
            self._run("open", "--test-passphrase", *where, keys=[key])
        except ProgramError as exc:
            if exc.code == _REFUSED:
                return False
            raise
        return True

    def add(self, old: Key, new: Key, *, cost: Cost | None = None) -> None:
        """Put ``new`` into a free slot. Errors: ``WrongPassphrase`` where ``old`` opens none."""
        try:
            self._run("luksAddKey", "--batch-mode", *(cost or Cost()).options(), keys=[old, new])
        except ProgramError as exc:
            if exc.code == _REFUSED:
                raise WrongPassphrase(f"the old key opens no slot of '{self.device}'", hint=_dump(self.device)) from exc
            raise

    def kill(self, slot: int) -> None:
        """Destroy a slot. cryptsetup destroys the last one as willingly: whoever calls this has proven another."""
        self._run("luksKillSlot", "--batch-mode", after=[str(slot)])

    def back_up_header(self, target: Path) -> None:
        """Copy header and slots into a new private file. It opens for every key of this moment, for ever."""
        self._run("luksHeaderBackup", "--header-backup-file", target)
        target.chmod(0o600)

    def _run(self, act: str, *options: str | Path, keys: Sequence[Key] = (), after: Sequence[str] = ()) -> str:
        """Run cryptsetup; the first key is the one that opens, a second one that is added."""
        with ExitStack() as lent:
            fds = [lent.enter_context(key.lent()) for key in keys]
            given = ["--key-file", f"/proc/self/fd/{fds[0]}"] if fds else []
            more = [f"/proc/self/fd/{fd}" for fd in fds[1:]]
            argv = [PROGRAM, act, *options, *given, self.device, *more, *after]
            return process.run(argv, cwd=Path("/"), inherit=fds, timeout_s=self.timeout_s, hint=_dump(self.device))


def _dump(device: Path) -> str:
    return f"cryptsetup luksDump {device}"


def need_cryptsetup() -> str:
    """Return the version of cryptsetup. Errors: ``ProgramMissing``."""
    try:
        return process.run([PROGRAM, "--version"], cwd=Path("/")).split()[1]
    except ProgramMissing as exc:
        raise ProgramMissing("cryptsetup is not installed", hint=_INSTALL) from exc
    except (ProgramError, IndexError) as exc:
        raise AtRestError(f"cryptsetup does not tell its version: {exc}", hint="cryptsetup --version") from exc
