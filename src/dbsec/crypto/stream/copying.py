"""From one binary file to another, with a few frames in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dbsec import files
from dbsec.crypto.stream.format import FRAME_BYTES, Key, KeyOf, Prelude, parse_prelude, prelude_bytes
from dbsec.crypto.stream.pieces import Counts, Decryptor, Encryptor
from dbsec.errors import UsageError


def encrypt_stream(
    source: BinaryIO, sink: BinaryIO, key: Key, *, header: bytes, frame_bytes: int = FRAME_BYTES, key_id: int = 0
) -> Counts:
    """Encrypt all of ``source`` into ``sink``; neither is closed. Parameters: those of ``Encryptor``."""
    encryptor = Encryptor(key, header=header, frame_bytes=frame_bytes, key_id=key_id)
    for piece in _pieces(source):
        _write(sink, encryptor.update(piece))
    _write(sink, encryptor.finalize())
    return encryptor.counts


def decrypt_stream(
    source: BinaryIO, sink: BinaryIO, key: KeyOf, *, header: bytes | None, name: str = "stream"
) -> Counts:
    """Decrypt all of ``source`` into ``sink``; neither is closed. Parameters: those of ``Decryptor``.

    The sink gets verified plaintext only, but gets it before the end is known: it is whole when this returns, and a
    true beginning where this raises. Use ``decrypt_file`` where nobody may see a beginning.
    Errors: ``DecryptionFailed``; what ``key`` raises.
    """
    decryptor = Decryptor(key, header=header, name=name)
    for piece in _pieces(source):
        _write(sink, decryptor.update(piece))
    _write(sink, decryptor.finalize())
    return decryptor.counts


def encrypt_file(
    source: Path, target: Path, key: Key, *, header: bytes, frame_bytes: int = FRAME_BYTES, key_id: int = 0
) -> Counts:
    """Encrypt a file into another, which appears whole, with mode 0600, or not at all."""
    with source.open("rb") as plain, files.replacing(target) as stream:
        return encrypt_stream(plain, stream, key, header=header, frame_bytes=frame_bytes, key_id=key_id)


def decrypt_file(source: Path, target: Path, key: KeyOf, *, header: bytes | None) -> Counts:
    """Decrypt a file into another, which appears with mode 0600 once the end of the stream was seen, or not at all."""
    with source.open("rb") as stream, files.replacing(target) as plain:
        return decrypt_stream(stream, plain, key, header=header, name=source.name)


def read_prelude(source: BinaryIO) -> Prelude:
    """Read what a stream says about itself; no key is needed, and nothing is proven.

    Errors: ``ValueError``, saying what is no stream of ours.
    """
    raw = b""
    while (missing := prelude_bytes(raw) - len(raw)) > 0:
        piece = _read(source, missing)
        if not piece:
            break
        raw += piece
    return parse_prelude(raw)


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    while piece := _read(source, FRAME_BYTES):
        yield piece


def _read(source: BinaryIO, size: int) -> bytes:
    """Read at most ``size`` bytes. None means "nothing yet", and would pass for the end of the file."""
    piece: bytes | None = source.read(size)
    if piece is None:
        raise UsageError("a stream is not read from a file that does not block", hint="os.set_blocking(fd, True)")
    return piece


def _write(sink: BinaryIO, data: bytes) -> None:
    """Write all of it: an unbuffered file may take less than it is given."""
    with memoryview(data) as rest:
        done = 0
        while done < len(rest):
            written: int | None = sink.write(rest[done:])
            if written is None:
                raise UsageError("a stream is not written to a file that does not block")
            done += written
