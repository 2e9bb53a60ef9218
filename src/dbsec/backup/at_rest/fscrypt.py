"""The kernel's encryption of a folder (fscrypt: ext4, f2fs, UBIFS, CephFS), by its ioctls.

Source: Linux, Documentation/filesystems/fscrypt.rst, include/uapi/linux/fscrypt.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dbsec.backup.at_rest.errors import CannotEncrypt

_GET_POLICY_EX: Final = 0xC0096616
_SET_POLICY: Final = 0x800C6613
_ADD_KEY: Final = 0xC0506617
_POLICY: Final = 24  # bytes of struct fscrypt_policy_v2, the longer one
_MODES: Final = {
    1: "AES-256-XTS",
    4: "AES-256-CTS",
    5: "AES-128-CBC-ESSIV",
    7: "SM4-XTS",
    9: "Adiantum",
    10: "AES-256-HCTR2",
}
_BY_IDENTIFIER: Final = 2
_XTS, _CTS, _PAD_32 = 1, 4, 3
KEY_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Policy:
    """``version`` 1 or 2; ``contents`` is the cipher's name; ``key`` names the key, hex."""

    version: int
    contents: str
    key: str


def policy_of(folder: Path) -> Policy | None:
    """Return how the kernel encrypts a folder and all that is made in it; None where it does not.

    Errors: ``OSError`` where it cannot be asked.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        raw = bytearray(struct.pack("=Q", _POLICY) + bytes(_POLICY))
        fcntl.ioctl(fd, _GET_POLICY_EX, raw)
    except OSError as exc:
        if exc.errno in (errno.ENODATA, errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS):
            return None
        raise
    finally:
        os.close(fd)
    version, contents = raw[8], raw[9]
    key = raw[12:20] if version == 0 else raw[16:32]
    return Policy(max(1, version), _MODES.get(contents, f"mode {contents}"), bytes(key).hex())


def add_key(mount: Path, key: bytes) -> bytes:
    """Give a file system a key of ``KEY_BYTES`` until it is unmounted; returns its identifier.

    Errors: ``CannotEncrypt``.
    """
    raw = bytearray(struct.pack("=II32xI36x", _BY_IDENTIFIER, 0, len(key)) + key)
    _asked(mount, _ADD_KEY, raw, "take a key")
    return bytes(raw[8:24])


def encrypt(folder: Path, identifier: bytes) -> None:
    """Let a folder, which must be empty, encrypt under a key from now on. Errors: ``CannotEncrypt``."""
    policy = struct.pack("=BBBB4x16s", 2, _XTS, _CTS, _PAD_32, identifier)
    _asked(folder, _SET_POLICY, bytearray(policy), "encrypt it")


def _asked(folder: Path, request: int, raw: bytearray, what: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, request, raw)
    except OSError as exc:
        raise CannotEncrypt(f"the kernel does not {what} at '{folder}': {exc.strerror}", hint="dmesg | tail") from exc
    finally:
        os.close(fd)
