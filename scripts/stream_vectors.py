"""Write tests/vectors/crypto_stream.json: streams that a reader must open, and streams that it must refuse.

The format is written here a second time, from docs/formats.md, on HMAC and AES-GCM alone: nothing of dbsec is
imported. ``python scripts/stream_vectors.py`` writes the file, ``--check`` compares. Bytes stand in hex.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

TARGET = Path(__file__).resolve().parents[1] / "tests" / "vectors" / "crypto_stream.json"
KEY = hashlib.sha256(b"the key of the vectors").digest()
OTHER_KEY = hashlib.sha256(b"another key").digest()
HEADER = b"backup/base.tar"
FRAME = 16


def hkdf(key: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 with SHA-256."""
    inner = hmac.digest(salt, key, "sha256")
    block = out = b""
    while len(out) < size:
        block = hmac.digest(inner, block + info + bytes([len(out) // 32 + 1]), "sha256")
        out += block
    return out[:size]


def gcm(key: bytes, nonce: bytes, plain: bytes) -> bytes:
    """Return ciphertext and tag."""
    encryptor = Cipher(AES(key), GCM(nonce)).encryptor()
    return encryptor.update(plain) + encryptor.finalize() + encryptor.tag


def part(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


class Stream:
    """A stream in pieces, so that an invalid one can be put together from them."""

    def __init__(
        self,
        plain: bytes,
        *,
        key: bytes = KEY,
        header: bytes = HEADER,
        frame: int = FRAME,
        key_id: int = 7,
        salt: bytes = b"",
        version: int = 1,
        algorithm: int = 1,
    ) -> None:
        self.plain, self.key, self.header, self.frame, self.key_id = plain, key, header, frame, key_id
        self.salt = salt or hashlib.sha256(b"salt" + plain + header).digest()
        self.start = struct.pack(">4sBBHII", b"\xd5STM", version, algorithm, len(header), frame, key_id)
        derived = hkdf(key, self.salt, part(b"dbsec/1/stream") + part(self.start) + part(header), 64)
        self.frame_key, self.commitment = derived[:32], derived[32:]
        cuts = range(0, len(plain), frame) or (0,)
        self.frames = [self.sealed(n, plain[at : at + frame], at + frame >= len(plain)) for n, at in enumerate(cuts)]

    def sealed(self, index: int, plain: bytes, last: bool) -> bytes:
        return gcm(self.frame_key, bytes(4) + index.to_bytes(7, "big") + bytes([last]), plain)

    @property
    def prelude(self) -> bytes:
        return self.start + self.salt + self.header + self.commitment

    def raw(self, *frames: bytes) -> bytes:
        return self.prelude + b"".join(frames or self.frames)


def valid() -> Iterator[dict[str, Any]]:
    """Sizes around the border of a frame, the largest and the smallest header, no key id and the largest."""
    text = bytes(range(256))
    streams = [(f"{size} bytes in frames of 16", Stream(text[:size])) for size in (0, 1, 15, 16, 17, 31, 32, 33, 48)]
    streams += [
        ("frames of one byte", Stream(text[:3], frame=1)),
        ("frames of 1 MiB, which is the default", Stream(text, frame=1 << 20)),
        ("no header, no key id", Stream(text[:20], header=b"", key_id=0)),
        ("a header of 300 bytes, the largest key id", Stream(text[:20], header=bytes(300), key_id=0xFFFFFFFF)),
    ]
    for name, one in streams:
        yield {
            "name": name,
            "key": one.key.hex(),
            "header": one.header.hex(),
            "frame_bytes": one.frame,
            "key_id": one.key_id,
            "plaintext": one.plain.hex(),
            "stream": one.raw().hex(),
        }


def invalid() -> Iterator[dict[str, Any]]:
    """Each is one step away from a valid one; ``header`` is what the reader expects."""
    for name, raw, *changed in _invalid():
        yield {"name": name, "key": KEY.hex(), "header": HEADER.hex(), "stream": raw.hex()} | dict(changed)


def _invalid() -> Iterator[tuple[Any, ...]]:
    whole = Stream(bytes(range(40)))  # frames of 16, 16 and 8 bytes
    a, b, c = whole.frames
    other = Stream(bytes(40))
    raw = whole.raw()
    at = len(whole.prelude)
    yield "nothing", b""
    yield "the prelude alone", whole.prelude
    yield "cut in the fixed part", raw[:20]
    yield "cut in the header", raw[:50]
    yield "cut after the first frame", whole.raw(a)
    yield "cut after the second frame", whole.raw(a, b)
    yield "cut within the last frame", raw[:-1]
    yield "cut within the second frame", raw[: at + 40]
    yield "one byte appended", raw + b"\0"
    yield "an empty frame appended", whole.raw(a, b, c, whole.sealed(3, b"", True))
    yield "an empty last frame after a full one", whole.raw(a, b, whole.sealed(2, b"", True))
    yield "a short frame in the middle", whole.raw(a, whole.sealed(1, b"short", False), c)
    yield "the last frame twice", whole.raw(a, b, c, c)
    yield "the first frame twice", whole.raw(a, a, b, c)
    yield "two frames exchanged", whole.raw(b, a, c)
    yield "the first frame left out", whole.raw(b, c)
    yield "the second frame left out", whole.raw(a, c)
    yield "a frame of another stream of the same key", whole.raw(a, other.frames[1], c)
    yield "all frames of another stream", whole.raw(*other.frames)
    yield "frames that were encrypted as last", whole.raw(whole.sealed(0, bytes(16), True), b, c)
    yield "an end that was not encrypted as last", whole.raw(a, b, whole.sealed(2, bytes(8), False))
    yield "another stream than the one expected", Stream(bytes(40), header=b"backup/manifest").raw()
    yield "another key", raw, ("key", OTHER_KEY.hex())
    yield "magic", b"\xd5STN" + raw[4:]
    yield "a later version", Stream(bytes(40), version=2).raw()
    yield "an unknown algorithm", Stream(bytes(40), algorithm=2).raw()
    yield "frames of no byte", _with_frame_size(whole, 0)
    yield "frames of 2^26 + 1 bytes", _with_frame_size(whole, (1 << 26) + 1)
    yield "a changed key id", raw[:12] + struct.pack(">I", 8) + raw[16:]
    yield "a changed frame size", raw[:8] + struct.pack(">I", 17) + raw[12:]
    yield "a changed salt", raw[:16] + bytes(32) + raw[48:]
    yield "a changed header, expected", raw.replace(HEADER, HEADER.upper()), ("header", HEADER.upper().hex())
    yield "a commitment of zeros", raw[: at - 32] + bytes(32) + raw[at:]
    yield "a value of a column", bytes.fromhex("d51100000001") + bytes(60)


def _with_frame_size(whole: Stream, size: int) -> bytes:
    """The commitment holds, so that only the size itself can be refused."""
    start = whole.start[:8] + struct.pack(">I", size) + whole.start[12:]
    info = part(b"dbsec/1/stream") + part(start) + part(HEADER)
    return start + whole.salt + HEADER + hkdf(KEY, whole.salt, info, 64)[32:] + bytes(16)


def made() -> str:
    """Return the file."""
    return json.dumps({"format": 1, "valid": list(valid()), "invalid": list(invalid())}, indent=1) + "\n"


def main() -> None:
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(made())
    elif not TARGET.exists() or TARGET.read_text() != made():
        sys.exit(f"{TARGET.name} is not what it was made from: python scripts/stream_vectors.py")


if __name__ == "__main__":
    main()
