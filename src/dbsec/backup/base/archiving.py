"""Sorts the one stream of a base backup into archives and manifest, each into objects of its own.

Source: PostgreSQL, "Streaming Replication Protocol", BASE_BACKUP: messages n (archive), m (manifest), d, p (progress).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from itertools import count
from typing import Final

from dbsec.backup import catalog
from dbsec.backup.base.members import PAGE_BYTES
from dbsec.backup.base.tar import TarIndex
from dbsec.backup.base.writing import ObjectWriter, Sealer
from dbsec.backup.catalog import Archive
from dbsec.backup.codec import Codec
from dbsec.backup.errors import BackupError

MANIFEST_BYTES: Final = 16 << 20
_DATA, _ARCHIVE, _MANIFEST, _PROGRESS = b"dnmp"


class ArchiveWriter:
    """One archive: a tar that the server has packed, as it is; or a plain one, cut into slices with its members."""

    def __init__(self, sealer: Sealer, oid: int, packed: str) -> None:
        self._sealer = sealer
        self._oid = oid
        self._packed = packed
        self._index = TarIndex()
        self._page = bytearray()
        self._pages: list[str] = []
        # what is packed already would only grow
        codec, seen = (Codec.NONE, None) if packed else (Codec.ZSTD, self._seen)
        self._writer = ObjectWriter(sealer, sealer.data_name, codec=codec, seen=seen)
        self.write = self._writer.write

    def close(self, plain_bytes: int) -> Archive:
        """Hand over what is left; ``plain_bytes`` is the size of the tar where the server has packed it."""
        objects = self._writer.close()
        if self._page:
            self._put_page()
        plain_bytes = plain_bytes if self._packed else self._writer.written
        return Archive(self._oid, objects, plain_bytes, self._packed, tuple(self._pages))

    def _seen(self, piece: memoryview, offset: int) -> None:
        for member in self._index.members_in(piece, offset):
            self._page += member.line()
            if len(self._page) >= PAGE_BYTES:
                self._put_page()

    def _put_page(self) -> None:
        name = self._sealer.data_name()
        self._sealer.put(name, bytes(self._page), codec=Codec.ZSTD)
        self._pages.append(name)
        self._page.clear()


class Stream:
    """Reads the messages of a stream; ``told`` hears of the plain bytes that the server has read so far."""

    def __init__(
        self, sealer: Sealer, backup: str, packed: str, tablespaces: Iterable[int], told: Callable[[int], None]
    ) -> None:
        self._sealer = sealer
        self._packed = packed
        self._expected = {0, *tablespaces}
        self._told = told
        self._open: ArchiveWriter | None = None
        self._begun_at = 0
        numbers = count()
        self._manifest = ObjectWriter(
            sealer, lambda: catalog.manifest_name(backup, next(numbers)), codec=Codec.ZSTD, cut=MANIFEST_BYTES
        )
        self._in_manifest = False
        self.archives: list[Archive] = []
        self.manifest: tuple[str, ...] = ()
        self.plain_bytes = 0

    def read(self, messages: Iterable[memoryview]) -> None:
        """Read to where it stops. Errors: ``BackupError`` for what is no such stream; those of ``Sealer.put``."""
        write: Callable[[memoryview], None] | None = None
        for message in messages:
            kind = message[0]
            if kind == _DATA and write is not None:
                write(message[1:])
            elif kind == _PROGRESS:
                (self.plain_bytes,) = struct.unpack("!q", message[1:9])
                self._told(self.plain_bytes)
            elif kind == _ARCHIVE and not self._in_manifest:
                write = self._begin(bytes(message[1:])).write
            elif kind == _MANIFEST and not self._in_manifest:
                self._end_archive()
                self._in_manifest = True
                write = self._manifest.write
            else:
                raise BackupError(f"the server sent a message {bytes(message[:1])!r} that has no place here")

    def finish(self) -> None:
        """Hand over the rest, once the server has said that the stream was whole. Errors: as of ``read``."""
        self._end_archive()
        self.manifest = self._manifest.close()
        if self._expected or not self.manifest:
            raise BackupError("the server's stream ended before all archives and the manifest had come")

    def _begin(self, names: bytes) -> ArchiveWriter:
        """Begin the archive that ``base.tar`` or ``OID.tar`` names, with an ending where it is packed."""
        self._end_archive()
        stem = names.partition(b"\0")[0].decode(errors="replace").partition(".")[0]
        oid = 0 if stem == "base" else int(stem) if stem.isdecimal() else -1
        if oid not in self._expected:
            raise BackupError(f"the server sent the archive {stem[:80]!r}, which is of no tablespace that it has named")
        self._expected.remove(oid)
        self._oid = oid
        self._open = ArchiveWriter(self._sealer, oid, self._packed)
        return self._open

    def _end_archive(self) -> None:
        if self._open is not None:
            self.archives.append(self._open.close(self.plain_bytes - self._begun_at))
            self._begun_at = self.plain_bytes
            self._open = None
