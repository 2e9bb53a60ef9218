"""What a folder really lies on: from its mount down to the disks, and which layer encrypts it, if one does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dbsec.backup.at_rest import blocks, fscrypt
from dbsec.backup.at_rest.machine import Machine
from dbsec.backup.at_rest.mounts import Mount
from dbsec.backup.at_rest.verdict import Seen, Verdict, weakest

_REMOTE: Final = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "9p",
    "virtiofs",
    "ceph",
    "fuse.sshfs",
    "fuse.glusterfs",
    "afs",
    "lustre",
}
_FSCRYPT: Final = {"ext4", "f2fs", "ubifs", "ceph"}
_DEEPEST: Final = 8


def look(path: Path, machine: Machine, *, depth: int = 0) -> Seen:
    """Tell what a folder or file lies on; what cannot be seen is ``UNKNOWN``, with the reason."""
    if depth > _DEEPEST:
        return Seen(Verdict.UNKNOWN, f"'{path}', which lies on itself")
    try:
        mount = machine.mount_of(path)
        policy = fscrypt.policy_of(_folder(machine.reach(path))) if mount.kind in _FSCRYPT else None
    except OSError as exc:
        return Seen(Verdict.UNKNOWN, f"'{path}' cannot be asked: {exc.strerror or exc}", "", "the same command as root")
    if policy is not None:
        told = f"fscrypt v{policy.version} ({policy.contents}) on {mount.kind} {mount.source}"
        return Seen(Verdict.ENCRYPTED, told, "FS_IOC_GET_ENCRYPTION_POLICY_EX")
    return of_mount(mount, machine, depth=depth)


def _folder(path: Path) -> Path:
    """A policy belongs to a folder and to what is in it; a socket or a device cannot be asked."""
    return path if path.is_dir() else path.parent


def of_mount(mount: Mount, machine: Machine, *, depth: int = 0) -> Seen:
    """Tell of one mount."""
    if mount.kind in _KINDS:
        return _KINDS[mount.kind](mount, machine, depth)
    if mount.kind in _REMOTE:
        told = f"{mount.kind} {mount.source}: a disk of another machine"
        return Seen(Verdict.UNKNOWN, told, "mountinfo", "dbsec at-rest check, on that machine")
    if mount.kind.startswith("fuse"):
        return Seen(Verdict.UNKNOWN, f"{mount.kind} {mount.source}: a program stores it", "mountinfo", "mount")
    if mount.number[0] == 0:
        return Seen(Verdict.UNKNOWN, f"{mount.kind} {mount.source}", "mountinfo", f"findmnt -T {mount.point}")
    return blocks.seen_number(machine, mount.number, _onwards(machine, depth)).over(mount.kind)


def _onwards(machine: Machine, depth: int) -> blocks.Look:
    """Look at what lies behind; the kernel names loop files as the first process sees them."""
    return lambda path: look(path, machine, depth=depth + 1)


def _memory(mount: Mount, machine: Machine, depth: int) -> Seen:
    """Memory that may be swapped is on a disk as soon as swap is; ramfs never is."""
    told = Seen(Verdict.MEMORY, f"{mount.kind}, memory", "mountinfo")
    if mount.kind == "ramfs":
        return told
    swaps = [seen for _, seen in swap(machine, depth=depth)]
    worst = weakest(swaps) if swaps else told
    if worst.verdict in (Verdict.MEMORY, Verdict.ENCRYPTED):
        return told
    return Seen(worst.verdict, f"{told.how}, which may be swapped to {worst.how}", worst.source, worst.check)


def swap(machine: Machine, *, depth: int = 0) -> list[tuple[str, Seen]]:
    """Tell of each swap area, by its name in /proc/swaps."""
    areas = [line.split() for line in machine.read(machine.proc / "swaps").splitlines()[1:]]
    return [(name, _swap_area(machine, name, kind, depth)) for name, kind, *_ in areas]


def _swap_area(machine: Machine, name: str, kind: str, depth: int) -> Seen:
    if kind == "file":
        return look(Path(name), machine, depth=depth + 1).over("a file")
    return blocks.seen_name(machine, Path(name).resolve().name, _onwards(machine, depth))


def _gocryptfs(mount: Mount, machine: Machine, _depth: int) -> Seen:
    """Whoever mounts may call himself gocryptfs: the folder of ciphertext must have its file of keys."""
    path = Path(mount.source) / "gocryptfs.conf"
    try:
        told = json.loads(machine.told(machine.reach(path)))
        flags = set(map(str, told["FeatureFlags"]))
    except (OSError, ValueError, KeyError, TypeError):
        what = f"{mount.kind}, whose folder of ciphertext '{mount.source}' is not seen"
        return Seen(Verdict.UNKNOWN, what, "mountinfo", f"as root: gocryptfs -info {mount.source}")
    names = "contents alone, names in clear" if "PlaintextNames" in flags else "contents and names"
    return Seen(Verdict.ENCRYPTED, f"gocryptfs ({names}) over '{mount.source}'", str(path))


def _ecryptfs(mount: Mount, _machine: Machine, _depth: int) -> Seen:
    cipher = mount.option("ecryptfs_cipher")
    if cipher is None or mount.option("ecryptfs_passthrough") is not None:
        told = f"ecryptfs over '{mount.source}', where files in clear may stand too"
        return Seen(Verdict.UNKNOWN, told, "mountinfo", f"findmnt -T {mount.point}")
    return Seen(Verdict.ENCRYPTED, f"ecryptfs ({cipher}) over '{mount.source}'", "mountinfo")


def _zfs(mount: Mount, machine: Machine, _depth: int) -> Seen:
    """The dataset's property, or what its pool lies on, which only zpool knows."""
    check = f"zfs get -H -o value encryption {mount.source}"
    told = machine.ask(check.split())
    if not told:
        return Seen(Verdict.UNKNOWN, f"zfs {mount.source}, and no zfs to ask", "mountinfo", check)
    if told in ("off", "-"):
        clear = f"zfs {mount.source}, encryption off; what its disks do is not looked at"
        return Seen(Verdict.CLEAR, clear, check, f"zpool status -P {mount.source.partition('/')[0]}; lsblk -s")
    return Seen(Verdict.ENCRYPTED, f"zfs {mount.source} ({told})", check)


def _btrfs(mount: Mount, machine: Machine, depth: int) -> Seen:
    """A btrfs has a number of its own and may span devices: all of them count."""
    name = Path(mount.source).resolve().name
    for devices in sorted((machine.sys / "fs/btrfs").glob("*/devices")):
        names = [one.name for one in devices.iterdir()]
        if name in names:
            parts = [blocks.seen_name(machine, one, _onwards(machine, depth)) for one in sorted(names)]
            return weakest(parts).over("btrfs")
    return Seen(Verdict.UNKNOWN, f"btrfs {mount.source}", str(machine.sys / "fs/btrfs"), "btrfs filesystem show")


def _overlay(mount: Mount, _machine: Machine, _depth: int) -> Seen:
    """A container's layer: its upper folder lies in the host's mounts, where a path of ours would be another."""
    upper = mount.option("upperdir") or "?"
    told = f"overlay, a container's own layer, written to '{upper}' of the host"
    return Seen(Verdict.UNKNOWN, told, "mountinfo", f"dbsec at-rest check --data-dir {upper}, on the host")


_KINDS: Final[dict[str, Callable[[Mount, Machine, int], Seen]]] = {
    "tmpfs": _memory,
    "ramfs": _memory,
    "fuse.gocryptfs": _gocryptfs,
    "ecryptfs": _ecryptfs,
    "zfs": _zfs,
    "btrfs": _btrfs,
    "overlay": _overlay,
}
