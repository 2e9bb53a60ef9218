"""The next generation of a lookup key: a second column beside the first, so that UNIQUE holds at every step.

Two generations in one column let a value in twice, for under two keys it is two values. So the new generation gets a
column and a unique index of its own. As long as one release reads the old column every release writes it, for all
rows; every release writes the new one before any reads it. At each moment one unique index covers all rows.

::

    release A    phone_bidx (1)                          runs now
    expand                                               phone_bidx_g2, its indexes, a trigger
    release B    phone_bidx (1) and phone_bidx_g2 (2)    writes both, reads the old one
    backfill     rows that A wrote                       once A is gone; then verify
    release C    both                                    writes both, reads the new one
    contract 1   phone_bidx is unique no longer          once B is gone
    release D    phone_bidx_g2 (2)                       knows the new one alone
    contract 2   phone_bidx is dropped                   once C is gone

B and C are one release with a switch. No two run together but neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dbsec.crypto.binding import UNBOUND, RowId, Unbinding
from dbsec.crypto.columns import EncryptedColumn, Mode
from dbsec.crypto.envelope import Envelope
from dbsec.crypto.errors import DecryptionFailed, ModeRefused

__all__ = [
    "agree",
    "filled",
    "generation_of",
    "lookup_column",
    "lookup_value",
    "lookup_values",
    "next_generation",
    "plaintext",
    "reads",
    "steps",
]

_ENDING = re.compile(r"_g(\d+)$")
_NAME_BYTES = 63
Row = Mapping[str, Any]


def generation_of(column: EncryptedColumn) -> int:
    """Return the generation of a column's lookup key. Errors: ``ModeRefused`` for one that has none."""
    if column.mode is Mode.DETERMINISTIC:
        return column.generation
    if column.index is None:
        raise ModeRefused(
            f"'{column.field}' is not found by its value: it has no lookup key", hint="dbsec crypto rotate-dek"
        )
    return column.index[1].generation


def lookup_column(column: EncryptedColumn) -> str:
    """Name the column in which a value is found. Errors: ``ModeRefused`` where there is none."""
    generation_of(column)
    return column.index[0] if column.index is not None else column.column


def next_generation(column: EncryptedColumn, name: str = "") -> EncryptedColumn:
    """Declare the same value under the next lookup key, in a column ``name`` (by default the old one's and ``_g2``).

    Of a deterministic column the ciphertext itself moves; otherwise the blind index does, and the ciphertext stays.
    """
    generation = generation_of(column) + 1
    name = name or _named(lookup_column(column), generation)
    if name == lookup_column(column):
        raise ModeRefused(f"'{name}' has the old generation", hint="two of them in one column break UNIQUE")
    if column.index is None:
        return replace(column, column=name, generation=generation)
    return replace(column, index=(name, replace(column.index[1], generation=generation)))


def lookup_value(envelope: Envelope, column: EncryptedColumn, value: str | bytes, *, tenant: str) -> bytes | int:
    """Return what stands in ``lookup_column`` for a plaintext. Errors: those of ``Envelope``."""
    if column.index is not None:
        return envelope.blind_index(value, column.field, column.index[1], tenant=tenant)
    raw = value.encode() if isinstance(value, str) else value
    return envelope.encrypt_deterministic(raw, column.field, tenant=tenant, generation=generation_of(column))


def lookup_values(
    envelope: Envelope, generations: Iterable[EncryptedColumn], value: str | bytes, *, tenant: str
) -> dict[str, bytes | int]:
    """Return what a release that writes several generations puts into their columns."""
    return {lookup_column(one): lookup_value(envelope, one, value, tenant=tenant) for one in generations}


def reads(column: EncryptedColumn) -> tuple[str, ...]:
    """Name the columns that ``filled`` needs of a row beside its key: the job's ``columns``."""
    bound = () if column.mode is Mode.DETERMINISTIC else column.row
    tenant = () if column.tenant is None else (column.tenant,)
    return tuple(dict.fromkeys((column.column, *tenant, *bound)))


def filled(
    envelope: Envelope, old: EncryptedColumn, new: EncryptedColumn, rows: Sequence[Row], *, key: Sequence[str] = ("id",)
) -> Iterator[dict[str, Any]]:
    """Compute the new column of each row: the function of the backfill. ``key``: as in the job.

    Errors: ``DecryptionFailed`` for a row that was tampered with: find it before the old column goes.
    """
    for row in rows:
        value = plaintext(envelope, old, row)
        made = lookup_value(envelope, new, value, tenant=tenant_of(old, row))
        yield {**{name: row[name] for name in key}, lookup_column(new): made}


def agree(envelope: Envelope, old: EncryptedColumn, new: EncryptedColumn, rows: Sequence[Row]) -> Iterator[bool]:
    """Tell of each row whether the new column holds what the old one stands for: the check of the backfill."""
    for row in rows:
        try:
            value = plaintext(envelope, old, row)
        except DecryptionFailed:
            yield False
            continue
        made = lookup_value(envelope, new, value, tenant=tenant_of(old, row))
        yield row[lookup_column(new)] == made


def plaintext(envelope: Envelope, column: EncryptedColumn, row: Row) -> str | bytes:
    """Decrypt a column of a row. Errors: those of ``Envelope.decrypt``."""
    raw = envelope.decrypt(
        bytes(row[column.column]), column.field, tenant=tenant_of(column, row), row=_bound(column, row)
    )
    return raw.decode() if column.type == "text" else raw


def tenant_of(column: EncryptedColumn, row: Row) -> str:
    """Return the tenant of a row, as text."""
    return "" if column.tenant is None else str(row[column.tenant])


def steps(old: EncryptedColumn, new: EncryptedColumn, *, sharing: Sequence[str] = ()) -> tuple[str, ...]:
    """Describe the rotation, step by step. ``sharing``: other columns found under the old key."""
    was, becomes = lookup_column(old), lookup_column(new)
    first, then = generation_of(old), generation_of(new)
    still = f" It still serves {', '.join(sharing)}: leave it active." if sharing else ""
    return (
        f"expand: {old.table}.{becomes} with the indexes of {was}, UNIQUE among them, and a trigger that empties it "
        f"where a release that does not know it changes {was}",
        f"deploy the release that writes both and reads {was} (dbsec.crypto.generations.lookup_values)",
        f"backfill {becomes} once no older release runs, and verify: every row has both generations then",
        f"switch: write both and read {becomes}",
        f"contract before: {was} is unique no longer, once none reads it; {becomes} refuses duplicates of all rows",
        f"deploy the release that knows {becomes} alone",
        f"contract: {becomes} becomes NOT NULL as {was} is and takes over its constraints; {was} is dropped",
        f"the lookup key of generation {first} of '{old.field.context}' has done its work; {then} is in use.{still}",
    )


def _named(name: str, generation: int) -> str:
    made = f"{_ENDING.sub('', name)}_g{generation}"
    if len(made.encode()) > _NAME_BYTES:
        raise ModeRefused(f"'{made}' is too long for a column", hint="give the new column a name")
    return made


def _bound(column: EncryptedColumn, row: Row) -> RowId | Unbinding:
    if column.mode is Mode.DETERMINISTIC:
        return UNBOUND
    parts = tuple(row[name] for name in column.row)
    return parts[0] if len(parts) == 1 else parts
