"""Encrypted columns for plain psycopg: rows are dicts, and each call says openly what is encrypted and decrypted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from dbsec.crypto import batches
from dbsec.crypto.binding import UNBOUND
from dbsec.crypto.columns import EncryptedColumn, Mode
from dbsec.crypto.envelope import Envelope, Row
from dbsec.crypto.errors import ModeRefused, Unbound
from dbsec.crypto.scope import SCOPE, admitted, current_tenant, tenant_name

Values = Mapping[str, Any]


class EncryptedRows:
    """The encrypted columns of one table. Rows are dicts by column names, as ``psycopg.rows.dict_row`` makes them.

    Errors of all: ``Unbound`` for a row without its tenant or id; ``KmsUnavailable``; ``KmsRefused``.
    """

    def __init__(self, envelope: Envelope, columns: Sequence[EncryptedColumn]) -> None:
        if len({column.table for column in columns}) > 1:
            raise ModeRefused("encrypted columns of several tables are several EncryptedRows")
        self._envelope = envelope
        self._columns = {column.column: column for column in columns}

    def encrypt(self, rows: Sequence[Values]) -> list[dict[str, Any]]:
        """Return copies to be given to ``executemany``: values encrypted, blind indexes filled.

        The tenant is the one of the row, else the one of the scope, which is then in the copy. Errors: ``Unbound`` too
        where the two differ; ``UsageError`` for a value of another type than declared.
        """
        made = [dict(row) for row in rows]
        for column in self._columns.values():
            there = [row for row in made if row.get(column.column) is not None]
            values = [row[column.column] for row in there]
            tenants = [self._tenant_to_write(column, row) for row in there]
            blobs = batches.encrypt(self._envelope, column, values, tenants, [_id(column, row) for row in there])
            for row, blob in zip(there, blobs, strict=True):
                row[column.column] = blob
            self._fill(column, made, there, values, tenants)
        return made

    def _fill(
        self,
        column: EncryptedColumn,
        rows: Sequence[dict[str, Any]],
        there: Sequence[dict[str, Any]],
        values: Sequence[Any],
        tenants: Sequence[str],
    ) -> None:
        if column.index is None:
            return
        name, how = column.index
        for row in rows:
            if column.column in row:
                row[name] = None
        for row, value in zip(there, batches.index(self._envelope, column, how, values, tenants), strict=True):
            row[name] = value

    def decrypt(self, rows: Sequence[Values]) -> list[dict[str, Any]]:
        """Return copies of what was selected, decrypted; each row must hold the tenant and the id.

        Errors: ``DecryptionFailed``, also for a row of another tenant than the scope's; ``Unbound`` without a scope.
        """
        made = [dict(row) for row in rows]
        for column in self._columns.values():
            for row in made:
                if row.get(column.column) is not None:
                    row[column.column] = self._value(column, row)
        return made

    def term(self, column: str, value: str | bytes) -> bytes | int:
        """Return what ``WHERE phone_bidx = %s`` or ``WHERE email = %s`` compares, for the tenant of the scope.

        A blind index of few bits finds rows that only share it: compare them again after decryption. Errors:
        ``ModeRefused`` for a column that is encrypted differently each time and has no index.
        """
        declared = self._columns[column]
        if declared.mode is not Mode.DETERMINISTIC and declared.index is None:
            raise ModeRefused(f"'{declared.field}' is encrypted differently each time", hint="give it an index")
        tenant = current_tenant(declared.field) if declared.tenant else ""
        how = declared.index[1] if declared.index else None
        return batches.term(self._envelope, declared, how, value, tenant)

    async def aencrypt(self, rows: Sequence[Values]) -> list[dict[str, Any]]:
        """Encrypt as ``encrypt`` does, in a thread."""
        return await asyncio.to_thread(self.encrypt, rows)

    async def adecrypt(self, rows: Sequence[Values]) -> list[dict[str, Any]]:
        """Decrypt as ``decrypt`` does, in a thread."""
        return await asyncio.to_thread(self.decrypt, rows)

    def _tenant_to_write(self, column: EncryptedColumn, row: dict[str, Any]) -> str:
        if column.tenant is None:
            return ""
        said = row.get(column.tenant)
        if said is None:
            row[column.tenant] = current_tenant(column.field)
            return str(row[column.tenant])
        tenant, scope = tenant_name(said), SCOPE.get()
        if isinstance(scope, str) and scope != tenant:
            raise Unbound(
                f"a row of '{column.table}' is of another tenant than the scope", hint="tenant_scope(tenant.id)"
            )
        return tenant

    def _value(self, column: EncryptedColumn, row: Values) -> str | bytes:
        blob = bytes(row[column.column])
        tenant = ""
        if column.tenant is not None:
            tenant = tenant_name(_part(column, row, column.tenant))
            if not admitted(tenant):
                raise batches.refused(column, blob)
        return batches.decrypt_one(self._envelope, column, blob, tenant, _id(column, row))


def _id(column: EncryptedColumn, row: Values) -> Row:
    if column.mode is Mode.DETERMINISTIC:
        return UNBOUND
    parts = tuple(_part(column, row, name) for name in column.row)
    return parts if len(parts) > 1 else parts[0]


def _part(column: EncryptedColumn, row: Values, name: str) -> Any:
    part = row.get(name)
    if part is None:
        raise Unbound(
            f"a value of '{column.field}' is bound to '{name}', which the row does not have", hint=f"add {name}"
        )
    return bytes(part) if isinstance(part, bytearray | memoryview) else part
