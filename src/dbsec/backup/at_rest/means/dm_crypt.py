"""LUKS2 on a file through dm-crypt: what a server's disk should be."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from dbsec import files, process
from dbsec.backup.at_rest import images
from dbsec.backup.at_rest.luks import Cost, Key, Luks
from dbsec.backup.at_rest.offers import Means, Raised
from dbsec.errors import ProgramError


def _probe() -> str:
    if why := images.missing_for_images():
        return why
    if shutil.which("cryptsetup", path=images.PATH) is None:
        return "cryptsetup is not installed"
    if not Path("/sys/class/misc/device-mapper").exists():
        return "the kernel has no device mapper"
    return ""


def _up(folder: Path, key: Path) -> Raised:
    image, inside, name = folder / "disk.img", folder / "mnt", f"dbsec-{secrets.token_hex(4)}"
    mapped = Path("/dev/mapper") / name
    files.make_folder(inside, mode=0o755)
    images.make_image(image)
    Luks(image).format(Key(key.read_bytes()), cost=Cost(1000))  # the key is random: guessing costs enough
    close = ["cryptsetup", "close", name]
    process.run(["cryptsetup", "open", "--key-file", key, image, name], cwd=Path("/"))
    try:
        images.make_ext4(mapped)
        images.mount(mapped, inside)
    except ProgramError:
        process.run(close, cwd=Path("/"))
        raise
    inside.chmod(0o755)
    return Raised(inside, image, images.undo(["umount", inside], close))


MEANS = Means(
    10,
    "dm-crypt",
    "the whole file system, names and sizes too; not run in our own tests, whose machines have no device mapper",
    _probe,
    _up,
)
