"""What becomes of a row's value: read from where it stands, written as its column is declared, and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from dbsec.crypto.binding import RowId
from dbsec.crypto.columns import EncryptedColumn, Mode
from dbsec.crypto.envelope import Envelope
from dbsec.crypto.errors import CryptoError, DecryptionFailed, Unbound
from dbsec.crypto.format import Algorithm, parse

Row = Mapping[str, Any]
Reader = Callable[[Any], bytes]
ALGORITHMS = {
    Mode.RANDOMISED: Algorithm.AES_256_GCM,
    Mode.DETERMINISTIC: Algorithm.AES_256_SIV,
    Mode.INLINE: Algorithm.AES_256_GCM_INLINE,
}
_MOST_NAMED = 100


class Unreadable(CryptoError):
    """A value that cannot be read as what it is said to be; the text has the row's key and no value."""


def plain(value: Any) -> bytes:
    """Read a column in clear. Errors: ``ValueError`` for a type that has no one form as bytes."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise ValueError(f"a {type(value).__name__} has no one form as bytes")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the values stand now: in ``column``; ``field`` and tenant are those of the target.

    ``read`` is for a column that is not ours (in clear, or of another library); None says that dbsec encrypted it.
    """

    column: str
    read: Reader | None = None


@dataclass(slots=True)
class Rewriting:
    """The functions of a backfill over one column. ``leave``: a value that cannot be read is left and named."""

    envelope: Envelope
    column: EncryptedColumn
    source: Source
    key: tuple[str, ...]
    leave: bool = False
    left: dict[tuple[str, ...], str] = field(default_factory=dict)

    @property
    def in_place(self) -> bool:
        """Tell whether a value is replaced where it stands."""
        return self.source.column == self.column.column

    def encrypted(self, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
        """Give each row that needs it its new value, and the blind index beside it: the function of the job.

        Errors: ``Unreadable`` with the row's key; ``KmsError``; ``Unbound``.
        """
        for tenant, some in by_tenant(self.column, rows):
            wanted = self._wanted_header(tenant)
            todo = [row for row in some if self._needs(row, wanted)]
            found = self._read(todo, tenant)
            kept = [(row, value) for row, value in zip(todo, found, strict=True) if value is not None]
            if not kept:
                continue
            made = self._write([value for _, value in kept], [row for row, _ in kept], tenant)
            for (row, value), new in zip(kept, made, strict=True):
                yield {**{name: row[name] for name in self.key}, self.column.column: new, **self._index(value, tenant)}

    def agree(self, rows: Sequence[Row]) -> Iterator[bool]:
        """Tell of each row whether its new value opens, is as declared, and holds what the source holds."""
        for row in rows:
            tenant = tenant_of(self.column, row)
            yield self._agrees(row, tenant)

    def _agrees(self, row: Row, tenant: str) -> bool:
        if row[self.source.column] is None:
            return True
        try:
            new = self._opened(row[self.column.column] or b"", row, tenant)
            if new is None or self._needs(row, self._wanted_header(tenant)):
                return False
            index = self._index(new, tenant)
            if any(row[name] != value for name, value in index.items()):
                return False
            return self.in_place or new == self._one(row, tenant)
        except (DecryptionFailed, Unreadable, ValueError):
            return False

    def _needs(self, row: Row, wanted: bytes) -> bool:
        if row[self.source.column] is None:
            return False
        value = row[self.column.column]
        if value is None or (self.column.index is not None and row[self.column.index[0]] is None):
            return True
        return not bytes(value).startswith(wanted)

    def _wanted_header(self, tenant: str) -> bytes:
        """Return how a value begins that is as it should be."""
        keyring, place = self.envelope.keyring, self.column.field
        if self.column.mode is Mode.INLINE:
            return bytes([0xD5, 0x10 | Algorithm.AES_256_GCM_INLINE])
        if self.column.mode is Mode.DETERMINISTIC:
            return keyring.lookup(tenant, place, self.column.generation).header
        return self.envelope.keyring.writer(tenant, place).header

    def _read(self, rows: Sequence[Row], tenant: str) -> list[bytes | None]:
        """Read the values; one that cannot be read is None where it is left. Errors: ``Unreadable``."""
        if self.source.read is None:
            try:
                blobs = [bytes(row[self.source.column]) for row in rows]
                ids = [row_id(self.column, row) for row in rows]
                return list(self.envelope.decrypt_many(blobs, self.column.field, tenant=tenant, rows=ids))
            except DecryptionFailed:
                pass  # one by one, so that it is named
        return [self._or_left(row, tenant) for row in rows]

    def _or_left(self, row: Row, tenant: str) -> bytes | None:
        try:
            return self._one(row, tenant)
        except Unreadable as exc:
            if not self.leave:
                raise
            if len(self.left) < _MOST_NAMED:
                self.left[self._named(row)] = str(exc)
            return None

    def _one(self, row: Row, tenant: str) -> bytes:
        value = row[self.source.column]
        try:
            if self.source.read is None or (self.in_place and is_ours(value)):
                return self.envelope.decrypt(
                    bytes(value), self.column.field, tenant=tenant, row=row_id(self.column, row)
                )
            return self.source.read(value)
        except (DecryptionFailed, ValueError) as exc:
            raise self._unreadable(row, exc) from None  # a reader's words may quote what it read

    def _unreadable(self, row: Row, exc: Exception) -> Unreadable:
        where = f"'{self.column.table}.{self.source.column}', row {', '.join(self._named(row))}"
        if isinstance(exc, DecryptionFailed):
            under = f", which names key {exc.key_id}" if exc.key_id is not None else ""
            said = f"the value of {where} cannot be decrypted{under}"
        else:
            said = f"the value of {where} is not what it is said to be ({type(exc).__name__})"
        hint = "dbsec crypto inspect; --leave-unreadable goes on without such rows and names them"
        return Unreadable(said, hint=hint)

    def _named(self, row: Row) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in self.key)

    def _opened(self, blob: bytes, row: Row, tenant: str) -> bytes | None:
        try:
            return self.envelope.decrypt(bytes(blob), self.column.field, tenant=tenant, row=row_id(self.column, row))
        except DecryptionFailed:
            return None

    def _write(self, values: list[bytes], rows: Sequence[Row], tenant: str) -> list[bytes]:
        envelope, place = self.envelope, self.column.field
        if self.column.mode is Mode.DETERMINISTIC:
            generation = self.column.generation
            return [envelope.encrypt_deterministic(one, place, tenant=tenant, generation=generation) for one in values]
        ids = [row_id(self.column, row) for row in rows]
        if self.column.mode is Mode.INLINE:
            pairs = zip(values, ids, strict=True)
            return [envelope.encrypt_inline(one, place, tenant=tenant, row=row) for one, row in pairs]
        return envelope.encrypt_many(values, place, tenant=tenant, rows=ids)

    def _index(self, value: bytes, tenant: str) -> dict[str, Any]:
        if self.column.index is None:
            return {}
        name, how = self.column.index
        shown = value.decode() if self.column.type == "text" else value
        return {name: self.envelope.blind_index(shown, self.column.field, how, tenant=tenant)}


def is_ours(value: Any) -> bool:
    """Tell whether a value has the format of dbsec; nothing is proven by it."""
    try:
        parse(bytes(value))
    except (TypeError, ValueError):
        return False
    return True


def row_id(column: EncryptedColumn, row: Row) -> RowId:
    """Return what a row's values are bound to: one part as itself, several as a tuple."""
    parts = tuple(row[name] for name in column.row)
    return parts[0] if len(parts) == 1 else parts


def tenant_of(column: EncryptedColumn, row: Row) -> str:
    """Return a row's tenant as text, "" in a table of no tenant. Errors: ``Unbound`` where it is null."""
    if column.tenant is None:
        return ""
    if row[column.tenant] is None:
        raise Unbound(f"a row of '{column.table}' has no tenant in '{column.tenant}'")
    return str(row[column.tenant])


def by_tenant(column: EncryptedColumn, rows: Iterable[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Yield the rows of each tenant together."""
    named = sorted(((tenant_of(column, row), n, row) for n, row in enumerate(rows)), key=lambda one: one[:2])
    return ((tenant, [row for *_, row in some]) for tenant, some in groupby(named, key=lambda one: one[0]))
