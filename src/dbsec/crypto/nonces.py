"""Random nonces, drawn by the hundred: the kernel's answer to one costs as much as the encryption of 64 bytes."""

from __future__ import annotations

import os
import struct

from dbsec.crypto.format import NONCE_BYTES

_NONCE = struct.Struct(f"{NONCE_BYTES}s")


def draw(count: int) -> list[bytes]:
    """Return that many times 12 random bytes. Source: NIST SP 800-38D, 8.2.2."""
    return [nonce for (nonce,) in _NONCE.iter_unpack(os.urandom(NONCE_BYTES * count))]


def take() -> bytes:
    """Return one."""
    return os.urandom(NONCE_BYTES)
