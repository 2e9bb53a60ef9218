"""A ciphertext that two AES-GCM keys accept: GCM does not commit to its key.

The tag is a polynomial in H = AES(key, 0) over AAD and ciphertext. With one block of ciphertext free, the tags of two
keys are one linear equation in it. Source: NIST SP 800-38D, 6.3 and 6.4; Dodis, Grubbs, Ristenpart, Woodage, Fast
Message Franking (2018), 3.2.
"""

from __future__ import annotations

import functools
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

_R = 0xE1 << 120


def made(nonce: bytes, one: tuple[bytes, bytes], other: tuple[bytes, bytes]) -> bytes:
    """Return 16 bytes of ciphertext and a tag that both accept; each is a key and its AAD."""
    sides = [_side(nonce, *one), _side(nonce, *other)]
    (h_one, rest_one), (h_other, rest_other) = sides
    square = _times(h_one, h_one) ^ _times(h_other, h_other)
    free = _times(rest_one ^ rest_other, _inverse(square))
    tag = rest_one ^ _times(free, _times(h_one, h_one))
    return free.to_bytes(16, "big") + tag.to_bytes(16, "big")


def _side(nonce: bytes, key: bytes, aad: bytes) -> tuple[int, int]:
    """Return H, and the tag of a block of zeros."""
    h = int.from_bytes(_aes(key, bytes(16)), "big")
    padded = aad + bytes(-len(aad) % 16)
    blocks = [padded[at : at + 16] for at in range(0, len(padded), 16)]
    blocks += [bytes(16), struct.pack(">QQ", len(aad) * 8, 128)]
    seen = functools.reduce(lambda state, block: _times(state ^ int.from_bytes(block, "big"), h), blocks, 0)
    return h, seen ^ int.from_bytes(_aes(key, nonce + b"\0\0\0\1"), "big")


def _aes(key: bytes, block: bytes) -> bytes:
    return Cipher(AES(key), modes.ECB()).encryptor().update(block)


def _times(x: int, y: int) -> int:
    """Multiply in GF(2^128) as GCM writes it: the first bit is the lowest power."""
    product = 0
    for bit in range(127, -1, -1):
        product ^= y if x >> bit & 1 else 0
        y = y >> 1 ^ (_R if y & 1 else 0)
    return product


def _inverse(x: int) -> int:
    """Raise to 2^128 - 2."""
    result = 1 << 127  # one
    for _ in range(127):
        x = _times(x, x)
        result = _times(result, x)
    return result
