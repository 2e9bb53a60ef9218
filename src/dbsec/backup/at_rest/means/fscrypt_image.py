"""The kernel's fscrypt on ext4 in a loop image: contents and names of a folder, at the page cache's speed."""

from __future__ import annotations

from pathlib import Path

from dbsec import files, process
from dbsec.backup.at_rest import fscrypt, images
from dbsec.backup.at_rest.errors import CannotEncrypt
from dbsec.backup.at_rest.offers import Means, Raised


def _probe() -> str:
    if why := images.missing_for_images():
        return why
    if not Path("/sys/fs/ext4/features/encryption").exists():
        return "the kernel's ext4 has no encryption"
    return ""


def _up(folder: Path, key: Path) -> Raised:
    image, point = folder / "disk.img", folder / "mnt"
    files.make_folder(point, mode=0o755)
    images.make_image(image)
    images.make_ext4(image, "encrypt")
    images.mount(image, point, "loop")
    try:
        inside = point / "encrypted"
        files.make_folder(inside, mode=0o755)
        fscrypt.encrypt(inside, fscrypt.add_key(point, key.read_bytes()))
    except (CannotEncrypt, OSError):
        process.run(["umount", point], cwd=Path("/"))
        raise
    # the key goes from memory with the file system
    return Raised(inside, image, images.undo(["umount", point]))


MEANS = Means(
    20,
    "fscrypt",
    "contents and names, AES-256-XTS; sizes, times and the number of files are seen, and blocks freed before stay",
    _probe,
    _up,
)
