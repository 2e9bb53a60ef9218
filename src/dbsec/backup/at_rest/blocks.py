"""Block devices from /sys: what a device is made of, down to the disks, and which layer encrypts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dbsec.backup.at_rest import clouds
from dbsec.backup.at_rest.machine import Machine
from dbsec.backup.at_rest.verdict import Seen, Verdict, weakest

_DEEPEST: Final = 16  # more layers than anybody stacks: what /sys tells could go round
# cryptsetup's prefix of a mapping's uuid; VERITY, INTEGRITY and SUBDEV are mappings of its kin that encrypt nothing
_CRYPT: Final = {
    "LUKS1": "LUKS1",
    "LUKS2": "LUKS2",
    "PLAIN": "plain dm-crypt",
    "TCRYPT": "VeraCrypt",
    "BITLK": "BitLocker",
    "FVAULT2": "FileVault 2",
}
_ELSEWHERE: Final = re.compile(r"(nbd|rbd|drbd|ublkb)\d+")
Look = Callable[[Path], Seen]


def seen_number(machine: Machine, number: tuple[int, int], look: Look) -> Seen:
    """Tell of a device by its number; ``look`` is for the file behind a loop device."""
    link = machine.sys / "dev/block" / f"{number[0]}:{number[1]}"
    try:
        device = link.resolve(strict=True)
    except OSError:
        return Seen(Verdict.UNKNOWN, f"device {number[0]}:{number[1]}", str(link), "lsblk -f")
    return seen_device(machine, device, look)


def seen_name(machine: Machine, name: str, look: Look) -> Seen:
    """Tell of a device by the kernel's name (``dm-0``)."""
    try:
        return seen_device(machine, (machine.sys / "class/block" / name).resolve(strict=True), look)
    except OSError:
        return Seen(Verdict.UNKNOWN, f"device {name}", str(machine.sys / "class/block" / name), "lsblk -f")


def seen_device(machine: Machine, device: Path, look: Look, *, depth: int = 0) -> Seen:
    """Go down from a device's folder in /sys: mappings, RAID, loops, partitions, disks.

    Source: Linux, Documentation/ABI/stable/sysfs-block (slaves), testing/sysfs-block-dm (dm/uuid),
    testing/sysfs-block-loop (loop/backing_file).
    """
    if depth > _DEEPEST:
        return Seen(Verdict.UNKNOWN, f"{device.name}, below which there is no end", str(device))
    uuid = machine.read(device / "dm/uuid")
    if uuid.startswith("CRYPT-"):
        return _crypt(machine, device, uuid) or _under(machine, device, look, depth, uuid)
    return _under(machine, device, look, depth, uuid)


def _under(machine: Machine, device: Path, look: Look, depth: int, uuid: str) -> Seen:
    name = _name(machine, device, uuid)
    if backing := machine.read(device / "loop/backing_file"):
        return look(Path(backing.removesuffix(" (deleted)"))).over(f"{name} over '{backing}'")
    slaves = _slaves(device)
    if slaves:
        return weakest([seen_device(machine, one, look, depth=depth + 1) for one in slaves]).over(name)
    if (device / "partition").exists():
        return seen_device(machine, device.parent, look, depth=depth + 1).over(name)
    return _disk(machine, device)


def _name(machine: Machine, device: Path, uuid: str) -> str:
    mapped = machine.read(device / "dm/name")
    kind = uuid.partition("-")[0] if uuid else ""
    if mapped:
        return f"{'LVM' if kind == 'LVM' else 'mapping'} '{mapped}'"
    level = machine.read(device / "md/level")
    return f"{level.upper()} {device.name}" if level else device.name


def _slaves(device: Path) -> list[Path]:
    try:
        return [one.resolve() for one in sorted((device / "slaves").iterdir())]
    except OSError:
        return []


def _crypt(machine: Machine, device: Path, uuid: str) -> Seen | None:
    """Judge a mapping of cryptsetup; None where its target encrypts nothing."""
    kind = _CRYPT.get(uuid.split("-")[1])
    if kind is None:
        return None
    name = machine.read(device / "dm/name") or device.name
    source = str(device / "dm/uuid")
    targets = [line.split() for line in machine.ask(["dmsetup", "table", name]).splitlines()]
    if not targets:
        return Seen(Verdict.ENCRYPTED, f"{kind} '{name}', whose cipher only root sees", source, f"dmsetup table {name}")
    ciphers = sorted({target[3] if target[2:3] == ["crypt"] else f"a part that is {target[2]}" for target in targets})
    told = f"{kind} '{name}' ({', '.join(ciphers)})"
    clear = any("null" in one or one.startswith("a part") for one in ciphers)
    if clear:  # cipher_null is none; a linear part is one that a running reencrypt has not reached
        return Seen(Verdict.CLEAR, told, f"dmsetup table {name}", f"cryptsetup status {name}")
    return Seen(Verdict.ENCRYPTED, told, f"dmsetup table {name}")


def _disk(machine: Machine, device: Path) -> Seen:
    name = device.name
    source = str(device)
    if name.startswith("zram"):
        backing = machine.read(device / "backing_dev")
        if backing in ("", "none"):
            return Seen(Verdict.MEMORY, f"{name}, compressed memory", source)
        return Seen(Verdict.UNKNOWN, f"{name}, which writes back to {backing}", source, f"lsblk -f {backing}")
    if name.startswith(("dm-", "md", "bcache")):
        return Seen(Verdict.UNKNOWN, f"{name}, whose parts are not shown", source, f"lsblk -s /dev/{name}")
    if _ELSEWHERE.fullmatch(name):
        return Seen(Verdict.UNKNOWN, f"{name}, a disk of another machine", source, f"lsblk -f /dev/{name}; then there")
    return clouds.seen_disk(machine, device)
