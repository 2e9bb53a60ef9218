"""An encrypted stream, byte by byte: what stands before its frames, where each frame lies, the cipher of one.

::

    prelude   D5 53 54 4D | version 1 | algorithm 1 | header length 2 | frame size 4 | key id 4 | salt 32
              | header | commitment 32
    frames    ciphertext | tag 16; each but the last holds exactly frame size bytes of plaintext

Numbers are big-endian. The header is the caller's: readable without the key, and bound, because the stream's key is
derived from it. No frame carries a length: the size of a stream says where each one lies.
"""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dbsec.canonical import length_prefixed
from dbsec.crypto.format import COMMITMENT_BYTES, KEY_BYTES, TAG_BYTES
from dbsec.errors import UsageError

Key = bytes | bytearray
KeyOf = Key | Callable[["Prelude"], Key]  # the key itself, or who finds it by key id and header

MAGIC: Final = b"\xd5STM"
VERSION: Final = 1
AES_256_GCM: Final = 1
FRAME_BYTES: Final = 1 << 20
MOST_FRAME_BYTES: Final = 1 << 26
MOST_FRAMES: Final = 1 << 32
MOST_HEADER_BYTES: Final = 0xFFFF
SALT_BYTES: Final = 32
_LABEL: Final = b"dbsec/1/stream"
_START: Final = struct.Struct(">4sBBHII")
_HEADER_AT: Final = _START.size + SALT_BYTES
_INDEX_BYTES: Final = 11  # 4 of the fixed field, all zero, and 7 of the invocation field
_FLAG: Final = (b"\0", b"\1")


@dataclass(frozen=True, slots=True)
class Prelude:
    """What a stream says about itself. Read without the key it is a claim; ``open_stream`` proves it."""

    header: bytes
    frame_bytes: int
    key_id: int
    salt: bytes
    commitment: bytes = b""

    def raw(self) -> bytes:
        """Return its bytes."""
        return self.start() + self.salt + self.header + self.commitment

    def start(self) -> bytes:
        """Return the first 16 bytes; beside salt and header, all that the key is derived from."""
        return _START.pack(MAGIC, VERSION, AES_256_GCM, len(self.header), self.frame_bytes, self.key_id)

    @property
    def size(self) -> int:
        """Its own bytes: where the first frame begins."""
        return _HEADER_AT + len(self.header) + COMMITMENT_BYTES

    @property
    def full_frame_bytes(self) -> int:
        """The bytes of a full frame, tag included."""
        return self.frame_bytes + TAG_BYTES

    def frame_count(self, plain_bytes: int) -> int:
        """Return how many frames a plaintext has; an empty one has one empty frame."""
        return max(1, -(-plain_bytes // self.frame_bytes))

    def stream_bytes(self, plain_bytes: int) -> int:
        """Return the size of the stream that a plaintext becomes."""
        return self.size + plain_bytes + TAG_BYTES * self.frame_count(plain_bytes)

    def plain_bytes(self, stream_bytes: int) -> int:
        """Return the size of the plaintext in a stream. Errors: ``ValueError`` where no stream has this size."""
        body = stream_bytes - self.size
        frames = max(1, -(-body // self.full_frame_bytes))
        plain = body - TAG_BYTES * frames
        if plain < 0 or self.frame_count(plain) != frames:
            raise ValueError(f"no stream with this header has {stream_bytes} bytes")
        return plain


def prelude_bytes(start: bytes | bytearray) -> int:
    """Return how long a prelude is, or how many bytes are needed to tell. Errors: ``ValueError``: not a stream."""
    if not MAGIC.startswith(start[: len(MAGIC)]):
        raise ValueError("not an encrypted stream: it does not begin with d553544d")
    if len(start) < _START.size:
        return _START.size
    header_bytes: int = _START.unpack_from(start)[3]
    return _HEADER_AT + header_bytes + COMMITMENT_BYTES


def parse_prelude(raw: bytes) -> Prelude:
    """Take a whole prelude apart; nothing is proven by it. Errors: ``ValueError``, saying what is no stream of ours."""
    if len(raw) < _HEADER_AT or len(raw) != prelude_bytes(raw):
        raise ValueError(f"{len(raw)} bytes are no prelude: cut off")
    _, version, algorithm, _, frame_bytes, key_id = _START.unpack_from(raw)
    if version != VERSION:
        raise ValueError(f"stream format version {version} is not known")
    if algorithm != AES_256_GCM:
        raise ValueError(f"algorithm {algorithm} is not known")
    if not 1 <= frame_bytes <= MOST_FRAME_BYTES:
        raise ValueError(f"frames of {frame_bytes} bytes are not written")
    return Prelude(
        header=raw[_HEADER_AT:-COMMITMENT_BYTES],
        frame_bytes=frame_bytes,
        key_id=key_id,
        salt=raw[_START.size : _HEADER_AT],
        commitment=raw[-COMMITMENT_BYTES:],
    )


class FrameCipher:
    """The cipher of one stream: AES-256-GCM under a key that no other stream has.

    Shape: the nonce is 4 bytes zero (the fixed field), then 7 bytes index and 1 byte last flag (the invocation field):
    a frame opens nowhere but in its place. Source: NIST SP 800-38D, 8.2.1, the deterministic construction.
    """

    __slots__ = ("_aead",)

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def encrypt(self, index: int, plain: bytes | memoryview, *, last: bool) -> bytes:
        """Encrypt one frame; the same index and flag are never given twice."""
        return self._aead.encrypt(_nonce(index, last), plain, None)

    def decrypt(self, index: int, frame: bytes | memoryview, *, last: bool) -> bytes:
        """Decrypt one frame. Errors: ``InvalidTag``."""
        return self._aead.decrypt(_nonce(index, last), frame, None)


def begin_stream(key: Key, header: bytes, frame_bytes: int, key_id: int) -> tuple[Prelude, FrameCipher]:
    """Return prelude and cipher of a new stream. Errors: ``UsageError`` for what the format has no place for."""
    if not 1 <= frame_bytes <= MOST_FRAME_BYTES:
        raise UsageError(f"a frame has 1 to {MOST_FRAME_BYTES} bytes, not {frame_bytes}")
    if len(header) > MOST_HEADER_BYTES:
        raise UsageError(f"a stream's header has at most {MOST_HEADER_BYTES} bytes, not {len(header)}")
    if not 0 <= key_id < 1 << 32:
        raise UsageError(f"key id {key_id} does not fit into 4 bytes")
    prelude = Prelude(header, frame_bytes, key_id, os.urandom(SALT_BYTES))
    frame_key, commitment = _derive(key, prelude)
    return replace(prelude, commitment=commitment), FrameCipher(frame_key)


def open_stream(key: KeyOf, prelude: Prelude, *, header: bytes | None) -> FrameCipher:
    """Return the cipher of a stream whose prelude was written under this key, every byte of it.

    ``header`` is the one expected, None takes any. Errors: ``ValueError`` where it was not; what ``key`` raises.
    """
    if header is not None and header != prelude.header:
        raise ValueError("another header than the one expected")
    frame_key, commitment = _derive(key(prelude) if callable(key) else key, prelude)
    if not hmac.compare_digest(commitment, prelude.commitment):
        raise ValueError("another key, or another prelude")
    return FrameCipher(frame_key)


def _derive(key: Key, prelude: Prelude) -> tuple[bytes, bytes]:
    """Return the key of the frames and the commitment.

    Shape: the two halves of 64 bytes of HKDF-SHA256 over the key with the stream's salt; the info is length-prefixed:
    ``dbsec/1/stream``, the prelude's first 16 bytes, the header. Source: RFC 5869.
    """
    if len(key) != KEY_BYTES:
        raise UsageError(f"a stream's key has {KEY_BYTES} bytes, not {len(key)}")
    info = length_prefixed([_LABEL, prelude.start(), prelude.header])
    derived = HKDF(SHA256(), KEY_BYTES + COMMITMENT_BYTES, prelude.salt, info).derive(key)
    return derived[:KEY_BYTES], derived[KEY_BYTES:]


def _nonce(index: int, last: bool) -> bytes:
    return index.to_bytes(_INDEX_BYTES, "big") + _FLAG[last]
