"""One stream, piece by piece: what a pipe, a socket or a multipart upload needs."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import NoReturn

from cryptography.exceptions import InvalidTag

from dbsec.crypto.errors import DecryptionFailed, KeyExhausted
from dbsec.crypto.format import TAG_BYTES
from dbsec.crypto.stream.format import (
    FRAME_BYTES,
    MOST_FRAMES,
    FrameCipher,
    Key,
    KeyOf,
    Prelude,
    begin_stream,
    open_stream,
    parse_prelude,
    prelude_bytes,
)
from dbsec.errors import UsageError

Piece = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Counts:
    """What went through."""

    plain_bytes: int
    frames: int
    prelude: Prelude

    @property
    def stream_bytes(self) -> int:
        return self.prelude.size + self.plain_bytes + TAG_BYTES * self.frames


class Encryptor:
    """Encrypts one stream: ``update`` with pieces, then ``finalize``; keeps at most a frame and a piece.

    ``header`` says what the stream is (name, kind, owner; 64 KiB at most): it stands in clear, and a reader who
    expects another refuses. Threads may share it; a forked child and a copy may not, for both would use its nonces.
    """

    def __init__(self, key: Key, *, header: bytes, frame_bytes: int = FRAME_BYTES, key_id: int = 0) -> None:
        self.prelude, self._cipher = begin_stream(key, header, frame_bytes, key_id)
        self._out = [self.prelude.raw()]
        self._pending = bytearray()
        self._frames = self._plain_bytes = 0
        self._ended = False
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def update(self, data: Piece) -> bytes:
        """Take a piece of the plaintext; returns what can be written, often nothing."""
        self._check_process()
        with self._lock:
            self._check_open()
            self._pending += data
            while len(self._pending) > self.prelude.frame_bytes:
                self._encrypt(self.prelude.frame_bytes, last=False)
            return self._take()

    def finalize(self) -> bytes:
        """Return the rest, without which no reader accepts the stream."""
        self._check_process()
        with self._lock:
            self._check_open()
            self._ended = True
            self._encrypt(len(self._pending), last=True)
            return self._take()

    @property
    def counts(self) -> Counts:
        return Counts(self._plain_bytes, self._frames, self.prelude)

    def _encrypt(self, size: int, *, last: bool) -> None:
        index = self._frames
        if index >= MOST_FRAMES:
            raise KeyExhausted("a stream has at most 2^32 frames", hint="choose larger frames, or several streams")
        self._frames += 1  # first: a frame that fails below must not leave its nonce to another
        with memoryview(self._pending) as pending, pending[:size] as plain:
            self._out.append(self._cipher.encrypt(index, plain, last=last))
        del self._pending[:size]
        self._plain_bytes += size

    def _take(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out

    def _check_open(self) -> None:
        if self._ended:
            raise UsageError("this stream has ended", hint="make an Encryptor for each stream")

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise UsageError("this stream was begun in another process", hint="make the Encryptor after the fork")

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Encryptor is neither copied nor pickled: both would use its nonces")


class Decryptor:
    """Decrypts one stream: ``update`` with pieces, then ``finalize``; keeps at most a frame and a piece.

    ``header`` is the one expected: it says which stream this must be. None takes any: compare ``prelude.header`` then,
    or one stream may stand in for another under the same key. ``name`` is for the error alone.
    Errors: ``DecryptionFailed`` whatever is wrong with the stream, and at each call after; what ``key`` raises.
    """

    def __init__(self, key: KeyOf, *, header: bytes | None, name: str = "stream") -> None:
        self._key = key
        self._expected = header
        self._name = name
        self._pending = bytearray()
        self._prelude: Prelude | None = None
        self._cipher: FrameCipher | None = None
        self._frames = self._plain_bytes = 0
        self._failed = False
        self.whole = False

    @property
    def prelude(self) -> Prelude:
        """What the stream says about itself, proven by the key. Errors: ``UsageError`` before that."""
        if self._prelude is None or self._cipher is None:
            raise UsageError("this stream's header was not read yet", hint="update() comes first")
        return self._prelude

    @property
    def counts(self) -> Counts:
        return Counts(self._plain_bytes, self._frames, self.prelude)

    def update(self, data: Piece) -> bytes:
        """Take a piece of the stream; returns the plaintext of each frame that another one follows.

        It is verified, but the stream may have been cut after it: that shows in ``finalize`` alone.
        """
        self._check_open()
        self._pending += data
        cipher = self._cipher or self._begin()
        plain: list[bytes] = []
        while cipher and len(self._pending) > self.prelude.full_frame_bytes:
            plain.append(self._decrypt(cipher, self.prelude.full_frame_bytes, last=False))
        return b"".join(plain)

    def finalize(self) -> bytes:
        """Return the last of the plaintext: nothing of the stream was left out, moved or added."""
        self._check_open()
        if self._cipher is None or (self._frames and len(self._pending) <= TAG_BYTES):
            raise self._refusal()
        plain = self._decrypt(self._cipher, len(self._pending), last=True)
        self.whole = True
        return plain

    def _begin(self) -> FrameCipher | None:
        """Read the prelude, once all of it is there."""
        try:
            size = prelude_bytes(self._pending)
            if len(self._pending) < size:
                return None
            self._prelude = parse_prelude(bytes(self._pending[:size]))
            self._cipher = open_stream(self._key, self._prelude, header=self._expected)
        except (ValueError, DecryptionFailed):  # the second where a keyring does not know the key id
            raise self._refusal() from None
        del self._pending[:size]
        return self._cipher

    def _decrypt(self, cipher: FrameCipher, size: int, *, last: bool) -> bytes:
        try:
            with memoryview(self._pending) as pending, pending[:size] as frame:
                plain = cipher.decrypt(self._frames, frame, last=last)
        except (InvalidTag, ValueError):
            raise self._refusal() from None
        del self._pending[:size]
        self._frames += 1
        self._plain_bytes += len(plain)
        return plain

    def _refusal(self) -> DecryptionFailed:
        self._failed = True
        return DecryptionFailed(self._name, key_id=self._prelude.key_id if self._prelude else None)

    def _check_open(self) -> None:
        if self._failed:
            raise self._refusal()
        if self.whole:
            raise UsageError("this stream has ended", hint="make a Decryptor for each stream")
