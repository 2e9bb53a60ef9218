"""An encrypted value, byte by byte; docs/formats.md describes it for other languages.

::

    by reference    D5 | 11 | key id 4 | nonce 12 | ciphertext | tag 16
    deterministic   D5 | 12 | key id 4 | synthetic IV 16 | ciphertext
    inline          D5 | 13 | length 2 | wrapped DEK | commitment 32 | nonce 12 | ciphertext | tag 16

The second byte is version (high half) and algorithm (low half). All before nonce or IV is the header, and is bound.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

MAGIC: Final = 0xD5
VERSION: Final = 1
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
KEY_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32
OVERHEAD_BYTES: Final = 34
HEADER: Final = struct.Struct(">BBI")
_INLINE: Final = struct.Struct(">BBH")
MOST_WRAPPED: Final = 0xFFFF


class Algorithm(IntEnum):
    """The low half of the second byte."""

    AES_256_GCM = 1
    AES_256_SIV = 2
    AES_256_GCM_INLINE = 3


@dataclass(frozen=True, slots=True)
class Parsed:
    """The parts of a value. ``key_id`` is None inline, ``wrapped`` and ``commitment`` are empty by reference."""

    version: int
    algorithm: Algorithm
    header: bytes
    body: bytes
    key_id: int | None = None
    wrapped: bytes = b""
    commitment: bytes = b""


def header_of(algorithm: Algorithm, key_id: int) -> bytes:
    """Return the 6 bytes before nonce or IV."""
    return HEADER.pack(MAGIC, VERSION << 4 | algorithm, key_id)


def inline_header(wrapped: bytes, commitment: bytes) -> bytes:
    """Return the header that carries its own DEK. Errors: ``ValueError`` for a wrapped DEK above 65,535 bytes."""
    if len(wrapped) > MOST_WRAPPED:
        raise ValueError(f"a wrapped DEK of {len(wrapped)} bytes has no place in the format")
    start = _INLINE.pack(MAGIC, VERSION << 4 | Algorithm.AES_256_GCM_INLINE, len(wrapped))
    return start + wrapped + commitment


def parse(value: bytes) -> Parsed:
    """Take a value apart; nothing is proven by it. Errors: ``ValueError``, saying what is no value of ours."""
    if len(value) < 2 or value[0] != MAGIC:
        raise ValueError("not an encrypted value: it does not begin with d5")
    version, low = value[1] >> 4, value[1] & 0x0F
    if version != VERSION:
        raise ValueError(f"format version {version} is not known")
    try:
        algorithm = Algorithm(low)
    except ValueError as exc:
        raise ValueError(f"algorithm {low} is not known") from exc
    return _inline(value) if algorithm is Algorithm.AES_256_GCM_INLINE else _by_reference(value, algorithm)


def _by_reference(value: bytes, algorithm: Algorithm) -> Parsed:
    least = OVERHEAD_BYTES if algorithm is Algorithm.AES_256_GCM else HEADER.size + TAG_BYTES
    if len(value) < least:
        raise ValueError(f"{len(value)} bytes are too few: cut off")
    key_id = HEADER.unpack_from(value)[2]
    return Parsed(VERSION, algorithm, value[: HEADER.size], value[HEADER.size :], key_id=key_id)


def _inline(value: bytes) -> Parsed:
    if len(value) < _INLINE.size:
        raise ValueError(f"{len(value)} bytes are too few: cut off")
    length = _INLINE.unpack_from(value)[2]
    wrapped_end = _INLINE.size + length
    end = wrapped_end + COMMITMENT_BYTES
    if len(value) < end + NONCE_BYTES + TAG_BYTES:
        raise ValueError(f"{len(value)} bytes are too few: cut off")
    return Parsed(
        VERSION,
        Algorithm.AES_256_GCM_INLINE,
        value[:end],
        value[end:],
        wrapped=value[_INLINE.size : wrapped_end],
        commitment=value[wrapped_end:end],
    )
