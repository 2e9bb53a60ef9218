"""Whether anything of a tenant still opens: tried on values and keys of a database, live or restored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from dbsec.crypto.columns import EncryptedColumn
from dbsec.crypto.envelope import Envelope
from dbsec.crypto.errors import CryptoError, DecryptionFailed
from dbsec.crypto.life import rows, tables
from dbsec.crypto.life.rewriting import Row, row_id
from dbsec.crypto.store import KeyRow, KeyState
from dbsec.evidence import Outcome
from dbsec.kms import Kms, KmsError, KmsRefused, unwrap_many

_EACH = 5
_ALL_ROWS: LiteralString = "SELECT pg_catalog.set_config('row_security', 'off', true)"


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing that was tried. PASS: it does not open any more; FAIL: it does; ERROR: nobody could tell."""

    name: str
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A value of a row, with what opens it."""

    column: EncryptedColumn
    tenant: str
    row: Row = field(repr=False)

    def opens(self, envelope: Envelope) -> bool:
        """Try it. Errors: ``KmsUnavailable``; ``ConnectError``."""
        value = bytes(self.row[self.column.column])
        try:
            envelope.decrypt(value, self.column.field, tenant=self.tenant, row=row_id(self.column, self.row))
        except (DecryptionFailed, CryptoError):
            return False
        return True


def samples(
    connection: psycopg.Connection[Any], columns: Iterable[EncryptedColumn], tenant: str, *, but: bool = False
) -> list[Sample]:
    """Take some values of a tenant from each column; with ``but``, of other tenants: what must go on opening.

    Errors: psycopg's, also where row-level security would hide rows.
    """
    return [found for column in columns if column.tenant for found in _of_column(connection, column, tenant, but)]


def _of_column(
    connection: psycopg.Connection[Any], column: EncryptedColumn, tenant: str, but: bool
) -> Iterator[Sample]:
    assert column.tenant is not None, "a column of a tenant"
    names = dict.fromkeys((column.column, column.tenant, *column.row))
    query = sql.SQL("SELECT {} FROM {} WHERE {} {} %s AND {} IS NOT NULL LIMIT {}").format(
        sql.SQL(", ").join(map(sql.Identifier, names)),
        tables.identifier(column),
        sql.Identifier(column.tenant),
        sql.SQL("<>" if but else "="),
        sql.Identifier(column.column),
        sql.Literal(_EACH),
    )
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(_ALL_ROWS)
        for row in cursor.execute(query, (tenant,)).fetchall():
            yield Sample(column, str(row[column.tenant]), row)


def alive(connection: psycopg.Connection[Any], tenant: str) -> list[KeyRow]:
    """Return the tenant's keys that are not marked as destroyed."""
    return [row for row in rows.every(connection, tenant=tenant) if row.state is not KeyState.DESTROYED]


def kms_refuses(kms: Kms, found: Sequence[KeyRow], where: str) -> Proof:
    """Let the KMS unwrap the very bytes that stand in a keyring; what comes back is zeroed at once."""
    name = f"{where}: the KMS unwraps the tenant's DEKs"
    if not found:
        return Proof(name, Outcome.SKIP, "its keyring has no key of the tenant that is not destroyed")
    answers = unwrap_many(kms, [(row.wrapped, row.aad) for row in found])
    opened, unknown = [], ""
    for row, answer in zip(found, answers, strict=True):
        if isinstance(answer, bytearray):
            answer[:] = bytes(len(answer))
            opened.append(row.id)
        elif not isinstance(answer, KmsRefused):
            unknown = str(answer)
    if opened:
        return Proof(name, Outcome.FAIL, f"it unwraps key {', '.join(map(str, opened))}")
    if unknown:
        return Proof(name, Outcome.ERROR, unknown)
    return Proof(name, Outcome.PASS, f"refused for {len(found)} keys")


def values_refuse(envelope: Envelope, found: Sequence[Sample], where: str, *, before: int | None = None) -> Proof:
    """Decrypt values of the tenant. ``before`` is how many opened until then: where none did, nothing is proven."""
    name = f"{where}: values of the tenant decrypt"
    if not found:
        return Proof(name, Outcome.SKIP, "there is no value of the tenant")
    try:
        opened = sum(sample.opens(envelope) for sample in found)
    except KmsError as exc:
        return Proof(name, Outcome.ERROR, str(exc))
    if opened:
        return Proof(name, Outcome.FAIL, f"{opened} of {len(found)} values open")
    if before == 0:
        return Proof(name, Outcome.ERROR, f"none of {len(found)} values opens, and none did before: nothing is proven")
    return Proof(name, Outcome.PASS, f"none of {len(found)} values opens")


def others_open(envelope: Envelope, found: Sequence[Sample], where: str) -> Proof:
    """Decrypt values of other tenants, which must go on: else a KMS that is away would look like a shredding."""
    name = f"{where}: values of other tenants stay readable"
    if not found:
        return Proof(name, Outcome.SKIP, "there is no value of another tenant")
    try:
        opened = sum(sample.opens(envelope) for sample in found)
    except KmsError as exc:
        return Proof(name, Outcome.ERROR, str(exc))
    if not opened:
        return Proof(name, Outcome.ERROR, f"none of {len(found)} values opens: what fails here proves nothing")
    return Proof(name, Outcome.PASS, f"{opened} of {len(found)} values open")
