"""One sealed object: a header that anyone reads, and a body that one epoch's key opens, bound to that header.

Shape: a stream of ``dbsec.crypto.stream`` (frames of 1 MiB, each bound to prelude, index and last-frame flag, under a
key that HKDF derives for this object), whose header is the canonical JSON of ``Header`` with ``"format": 1``.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography.exceptions import InvalidTag

from dbsec import canonical
from dbsec.backup.codec import Codec
from dbsec.backup.errors import Tampered
from dbsec.crypto.stream.format import (
    FRAME_BYTES,
    FrameCipher,
    Prelude,
    begin_stream,
    open_stream,
    parse_prelude,
    prelude_bytes,
)
from dbsec.errors import NewerFormat, UsageError

FORMAT: Final = 1
MOST_PLAIN_BYTES: Final = 64 << 20
MOST_PRELUDE_BYTES: Final = 4096  # what a ranged read takes to see a header: names have at most 512 bytes
_CONTENT: Final = b"dbsec/1/backup content"


class Kind(StrEnum):
    """What an object holds; one kind never passes for another."""

    WAL = "wal"  # a segment, whole
    PIECE = "piece"  # a part of a segment, streamed before the segment is full
    HISTORY = "history"  # .history, .backup and .partial files of PostgreSQL
    DATA = "data"  # a part of a base backup
    MANIFEST = "manifest"  # a part of PostgreSQL's backup_manifest
    BACKUP = "backup"  # the description of a base backup, written last
    NOTE = "note"  # a record of dbsec's own: a tombstone, a witness, a proof


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the body, readable without a key and bound to it.

    ``system`` is the cluster's system identifier, ``timeline`` 0 where none is meant, ``name`` the object's own in the
    repository, ``content`` the HMAC of name and plaintext (``content_mac``), ``plain_bytes`` the plaintext's size
    before ``codec``.
    """

    system: int
    timeline: int
    kind: Kind
    name: str
    epoch: str
    codec: Codec
    plain_bytes: int
    content: str
    created: str

    def raw(self) -> bytes:
        """Return its bytes."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return canonical.json_bytes({"format": FORMAT, **fields})


def content_mac(key: bytes, name: str, plain: bytes | memoryview) -> str:
    """Return the hex HMAC-SHA256 of a name and its content.

    Nonces make equal content different ciphertext; by this a host that cannot open objects tells equal from other.
    """
    mac = hmac.new(key, canonical.length_prefixed([_CONTENT, name.encode()]), hashlib.sha256)
    mac.update(plain)
    return mac.hexdigest()


def seal(header: Header, plain: bytes | memoryview, key: bytes) -> bytes:
    """Return the object. ``plain`` has ``header.plain_bytes`` bytes. Errors: ``UsageError`` above 64 MiB."""
    if len(plain) > MOST_PLAIN_BYTES or len(plain) != header.plain_bytes:
        raise UsageError(f"an object holds at most {MOST_PLAIN_BYTES} bytes, and as many as its header says")
    body = header.codec.pack(plain)
    prelude, cipher = begin_stream(key, header.raw(), FRAME_BYTES, 0)
    frames = prelude.frame_count(len(body))
    with memoryview(body) as whole:
        sealed = [
            cipher.encrypt(index, whole[index * FRAME_BYTES : (index + 1) * FRAME_BYTES], last=index == frames - 1)
            for index in range(frames)
        ]
    return b"".join([prelude.raw(), *sealed])


def read_header(name: str, raw: bytes) -> Header:
    """Read the header of an object or of its beginning: what it claims, unproven. Errors: ``Tampered``."""
    return _header(name, _prelude(name, raw))


def unseal(name: str, raw: bytes, key: bytes, *, system: int, kind: Kind | None = None) -> tuple[Header, bytes]:
    """Return header and plaintext of the object that has this name; nothing is returned that was not proven.

    Errors: ``Tampered``, with the reason; ``NewerFormat``.
    """
    header, frames = unseal_frames(name, raw, key, system=system, kind=kind)
    body = frames[0] if len(frames) == 1 else b"".join(frames)
    return header, header.codec.unpack(name, body, header.plain_bytes)


def unseal_frames(
    name: str, raw: bytes, key: bytes, *, system: int, kind: Kind | None = None
) -> tuple[Header, list[bytes]]:
    """Return header and body, as it was packed, in pieces of at most 1 MiB; all of it is proven.

    Errors: those of ``unseal``.
    """
    prelude = _prelude(name, raw)
    header = _header(name, prelude)
    check(header, name, system=system, kind=kind)
    try:
        cipher = open_stream(key, prelude, header=None)
    except ValueError:
        raise Tampered(name, "its header was altered, or it is sealed under another key") from None
    return header, _frames(name, raw, prelude, cipher)


def check(header: Header, name: str, *, system: int, kind: Kind | None = None) -> None:
    """Refuse a header of another object or cluster. Errors: ``Tampered``."""
    if header.name != name:
        raise Tampered(name, f"it is the object '{header.name}'")
    if header.system != system:
        raise Tampered(name, f"it is of the cluster {header.system}, not {system}")
    if kind is not None and header.kind is not kind:
        raise Tampered(name, f"it is a '{header.kind}', not a '{kind}'")
    if header.plain_bytes > MOST_PLAIN_BYTES:
        raise Tampered(name, f"it claims {header.plain_bytes} bytes")


def _frames(name: str, raw: bytes, prelude: Prelude, cipher: FrameCipher) -> list[bytes]:
    """Decrypt every frame. A cut, a longer or a reordered object fails at a frame: each knows its place and the end."""
    try:
        frames = prelude.frame_count(prelude.plain_bytes(len(raw)))
        full = prelude.full_frame_bytes
        with memoryview(raw)[prelude.size :] as body:
            return [
                cipher.decrypt(index, body[index * full : (index + 1) * full], last=index == frames - 1)
                for index in range(frames)
            ]
    except (InvalidTag, ValueError):
        raise Tampered(name, "it was altered or truncated") from None


def _prelude(name: str, raw: bytes) -> Prelude:
    try:
        return parse_prelude(raw[: prelude_bytes(raw[:16])])
    except ValueError as exc:
        raise Tampered(name, str(exc)) from None


def _header(name: str, prelude: Prelude) -> Header:
    try:
        told = json.loads(prelude.header)
        found = told.pop("format")
        if isinstance(found, int) and found > FORMAT:
            raise NewerFormat(f"'{name}'", found=found, known=FORMAT)
        header = Header(kind=Kind(told.pop("kind")), codec=Codec(told.pop("codec")), **told)
        if found != FORMAT or header.raw() != prelude.header:
            raise ValueError("not canonical")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Tampered(name, "its header is none of ours") from None
    return header
