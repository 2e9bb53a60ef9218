"""gocryptfs, a file system of a user's process: AES-GCM for each block, at the price of FUSE."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from dbsec import files, process, retry
from dbsec.backup.at_rest import images
from dbsec.backup.at_rest.errors import CannotEncrypt
from dbsec.backup.at_rest.offers import Means, Raised
from dbsec.errors import GaveUp, ProgramError

_FUSE = Path("/dev/fuse")
_LITTLE = "10"  # scrypt's cost as a power of two: the key is random, and guessing costs enough


def _probe() -> str:
    for name in ("gocryptfs", "fusermount3"):
        if shutil.which(name, path=images.PATH) is None:
            return f"{name} is not installed"
    try:
        os.close(os.open(_FUSE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        return f"'{_FUSE}' cannot be opened: {exc.strerror}"
    return ""


def _up(folder: Path, key: Path) -> Raised:
    """The process stays after us; it ends as its mount does."""
    cipher, inside = folder / "cipher", folder / "mnt"
    passphrase = folder / "key.txt"  # one line, where the key is any bytes
    files.write_atomic(passphrase, key.read_bytes().hex())
    for made in (cipher, inside):
        made.mkdir(mode=0o700)
    given: list[str | Path] = ["gocryptfs", "-q", "-passfile", passphrase]
    process.run([*given, "-init", "-scryptn", _LITTLE, cipher], cwd=folder)
    others = ["-allow_other"] if os.geteuid() == 0 else []  # the server's account is another than root
    log = folder / "gocryptfs.log"
    run = process.spawn([*given, "-fg", "-nosyslog", *others, cipher, inside], cwd=folder, log=log)

    def mounted() -> bool:
        if not run.alive:
            raise CannotEncrypt(f"gocryptfs ended: {process.last_lines(log)}", hint="gocryptfs -fg -d")
        return os.path.ismount(inside)  # before it, what is written lies in clear

    try:
        retry.wait_until(mounted, within_s=20, what="gocryptfs to mount")
        inside.chmod(0o755)
    except (GaveUp, CannotEncrypt, OSError) as exc:
        process.stop(run)
        raise CannotEncrypt(f"gocryptfs does not mount: {exc}", hint=f"ls -l {_FUSE}") from exc
    except ProgramError:
        process.stop(run)
        raise
    return Raised(inside, cipher, images.undo(["fusermount3", "-u", inside]))


MEANS = Means(
    30,
    "gocryptfs",
    "contents and names, AES-256-GCM; sizes, times and the number of files are seen; slow for small writes",
    _probe,
    _up,
)
