"""Any part of a stream without what stands before it: by frame, or by offset of the plaintext."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO

from cryptography.exceptions import InvalidTag

from dbsec.crypto.errors import DecryptionFailed
from dbsec.crypto.stream.format import KeyOf, open_stream, parse_prelude, prelude_bytes
from dbsec.errors import UsageError

Read = Callable[[int, int], bytes]  # offset, size -> that many bytes: a file, or a range of an object


class StreamReader:
    """Reads a stream of known size out of order, a frame at a time.

    The last frame is decrypted at once, which proves the size: a stream that was cut or extended is refused here.
    ``header`` and ``key`` are those of ``Decryptor``. Errors: ``DecryptionFailed``; what ``read`` and ``key`` raise.
    """

    def __init__(
        self, read: Read, stream_bytes: int, key: KeyOf, *, header: bytes | None, name: str = "stream"
    ) -> None:
        self._read = read
        self._name = name
        self._key_id: int | None = None
        try:
            start = read(0, prelude_bytes(b""))
            self.prelude = parse_prelude(read(0, prelude_bytes(start)))
            self._key_id = self.prelude.key_id
            self._cipher = open_stream(key, self.prelude, header=header)
            self.plain_bytes = self.prelude.plain_bytes(stream_bytes)
        except (ValueError, DecryptionFailed):  # the second where a keyring does not know the key id
            raise self._refusal() from None
        self.frames = self.prelude.frame_count(self.plain_bytes)
        self.decrypt_frame(self.frames - 1)

    @classmethod
    def of_file(cls, source: BinaryIO, key: KeyOf, *, header: bytes | None, name: str = "stream") -> StreamReader:
        """Read from a file that can seek; no other reader may move it meanwhile."""

        def read(offset: int, size: int) -> bytes:
            source.seek(offset)
            return source.read(size)

        return cls(read, source.seek(0, os.SEEK_END), key, header=header, name=name)

    def decrypt_frame(self, index: int) -> bytes:
        """Return the plaintext of a frame; the first is 0. Errors: ``UsageError`` for one that the stream has not."""
        if not 0 <= index < self.frames:
            raise UsageError(f"'{self._name}' has frames 0 to {self.frames - 1}, not {index}")
        full = self.prelude.full_frame_bytes
        last = index == self.frames - 1
        size = self.prelude.stream_bytes(self.plain_bytes) - self.prelude.size - index * full if last else full
        try:
            return self._cipher.decrypt(index, self._read(self.prelude.size + index * full, size), last=last)
        except (InvalidTag, ValueError):
            raise self._refusal() from None

    def read_at(self, offset: int, size: int) -> bytes:
        """Return at most ``size`` bytes of the plaintext from ``offset`` on, less at its end."""
        if offset < 0 or size < 0:
            raise UsageError(f"no {size} bytes at {offset}")
        end = min(offset + size, self.plain_bytes)
        if offset >= end:
            return b""
        frame_bytes = self.prelude.frame_bytes
        first = offset // frame_bytes
        frames = [self.decrypt_frame(index) for index in range(first, (end - 1) // frame_bytes + 1)]
        return b"".join(frames)[offset - first * frame_bytes : end - first * frame_bytes]

    def _refusal(self) -> DecryptionFailed:
        return DecryptionFailed(self._name, key_id=self._key_id)
