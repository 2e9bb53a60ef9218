"""StringEncryptedType of SQLAlchemy-Utils with AesEngine, its default: AES-256-CBC, one IV a key, no MAC, base64.

What is read is what that type gave to its application: with "naive" padding a value's own trailing ``*`` are gone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from dbsec.crypto.life.legacy import Format, Reader, text_of
from dbsec.secret import Secret

_BLOCK = 16


def _pkcs5(padded: bytes) -> bytes:
    size = padded[-1]
    if not 1 <= size <= _BLOCK or padded[-size:] != bytes([size]) * size:
        raise ValueError("padding")
    return padded[:-size]


def _zeroes(padded: bytes) -> bytes:
    size = padded[-1]
    if not 1 <= size <= _BLOCK or padded[-size:-1].strip(b"\0"):
        raise ValueError("padding")
    return padded[:-size]


_UNPADDED: dict[str, Callable[[bytes], bytes]] = {
    "naive": lambda padded: padded.rstrip(b"*"),
    "pkcs5": _pkcs5,
    "zeroes": _zeroes,
    "oneandzeroes": lambda padded: padded.rstrip(b"\0").rstrip(b"\x80"),
}


def _open(keys: Sequence[Secret], padding: str) -> Reader:
    key = hashlib.sha256(keys[0].reveal().encode()).digest()
    cipher = Cipher(algorithms.AES(key), modes.CBC(key[:_BLOCK]))
    unpadded = _UNPADDED[padding]

    def read(value: Any) -> bytes:
        decryptor = cipher.decryptor()
        padded = decryptor.update(base64.b64decode(text_of(value), validate=True)) + decryptor.finalize()
        if not padded:
            raise ValueError("cut off")
        plain = unpadded(padded)
        plain.decode("utf-8")  # the only sign of a wrong key, and of a changed value
        return plain

    return read


FORMAT = Format("SQLAlchemy-Utils, AesEngine (its default)", _open, authentic=False, paddings=tuple(_UNPADDED))
