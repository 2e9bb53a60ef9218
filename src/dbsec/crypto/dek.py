"""A DEK in memory: made, unwrapped, checked against its commitment, and gone as bytes before it is used."""

from __future__ import annotations

import hmac
import os

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from dbsec.canonical import length_prefixed
from dbsec.crypto.format import KEY_BYTES

_COMMITMENT = length_prefixed([b"dbsec/1/commit"])
_BLOCK = 32


class Dek:
    """HKDF-SHA256 over a DEK, with the key inside of OpenSSL's state: no copy of the DEK or of its PRK stays in Python.

    Source: RFC 5869.
    """

    __slots__ = ("_expand",)

    def __init__(self, dek: bytearray, salt: bytes) -> None:
        """Take a DEK of 32 bytes, which is zeroed."""
        if len(dek) != KEY_BYTES:
            erase(dek)
            raise ValueError("a DEK has 32 bytes")
        extract = HMAC(salt, SHA256())
        extract.update(dek)
        erase(dek)
        self._expand = HMAC(extract.finalize(), SHA256())

    def subkey(self, info: bytes, size: int = KEY_BYTES) -> bytes:
        """Derive ``size`` bytes, at most 64."""
        block = b""
        out = b""
        for n in range(1, -(-size // _BLOCK) + 1):
            step = self._expand.copy()
            step.update(block + info + bytes([n]))
            block = step.finalize()
            out += block
        return out[:size]

    def commitment(self) -> bytes:
        """Return what is stored beside the wrapped DEK: no other DEK has it."""
        return self.subkey(_COMMITMENT)

    def keeps(self, commitment: bytes) -> bool:
        """Tell whether it is the DEK that was committed to."""
        return hmac.compare_digest(self.commitment(), commitment)

    def __repr__(self) -> str:
        return "<DEK>"


def fresh() -> bytearray:
    """Draw a DEK."""
    return bytearray(os.urandom(KEY_BYTES))


def erase(key: bytearray) -> None:
    """Overwrite it with zeros."""
    key[:] = bytes(len(key))
