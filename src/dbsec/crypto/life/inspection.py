"""What a value is: format, algorithm, key and sizes; nothing of its plaintext but how long that is."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from dbsec.crypto.columns import EncryptedColumn
from dbsec.crypto.envelope import Envelope
from dbsec.crypto.errors import DecryptionFailed
from dbsec.crypto.format import NONCE_BYTES, TAG_BYTES, Algorithm, parse
from dbsec.crypto.life import rows, tables
from dbsec.crypto.life.rewriting import row_id, tenant_of
from dbsec.crypto.store import KeyRow
from dbsec.errors import UsageError

_HEX = re.compile(r"(?:\\x|0x)?((?:[0-9a-fA-F]{2})+)\Z")
_NAMES = {
    Algorithm.AES_256_GCM: "AES-256-GCM by reference",
    Algorithm.AES_256_SIV: "AES-256-SIV deterministic",
    Algorithm.AES_256_GCM_INLINE: "AES-256-GCM inline",
}


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a value is. ``why_not`` where it is none of ours; ``key`` is None inline, and where the keyring lacks it.

    ``opens``: whether it decrypts for the row that it stands in; None where that was not tried.
    """

    size: int
    what: str = ""
    version: int | None = None
    key_id: int | None = None
    key: KeyRow | None = None
    plaintext_size: int | None = None
    wrapped_size: int | None = None
    opens: bool | None = None
    why_not: str = ""

    def to_json(self) -> dict[str, Any]:
        """Shape: the fields by name; of the key what may be told."""
        names = ("size", "what", "version", "key_id", "plaintext_size", "wrapped_size", "opens", "why_not")
        told = {name: getattr(self, name) for name in names}
        if self.key is None:
            return {**told, "key": None}
        key = ("tenant", "context", "purpose", "generation", "state", "kek", "kek_version", "created_at", "retired_at")
        return {**told, "key": {name: getattr(self.key, name) for name in key}}


def of_text(text: str) -> bytes:
    r"""Read a value as psql shows it (``\xd511…``), in hex, or in base64. Errors: ``UsageError``, without the text."""
    text = text.strip()
    if found := _HEX.match(text):
        return bytes.fromhex(found[1])
    try:
        return base64.b64decode(text, altchars=b"-_" if set(text) & set("-_") else None, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise UsageError("the value is neither hex nor base64", hint=r"as psql shows it: \xd511...") from exc


def inspect(value: bytes, keyring: psycopg.Connection[Any] | None = None) -> Inspected:
    """Take a value apart, and look its key up where a keyring is given. Nothing is decrypted."""
    try:
        parsed = parse(value)
    except ValueError as exc:
        return Inspected(len(value), why_not=str(exc))
    key = _key(keyring, parsed.key_id) if keyring is not None and parsed.key_id is not None else None
    siv = parsed.algorithm is Algorithm.AES_256_SIV
    return Inspected(
        len(value),
        what=_NAMES[parsed.algorithm],
        version=parsed.version,
        key_id=parsed.key_id,
        key=key,
        plaintext_size=len(parsed.body) - TAG_BYTES - (0 if siv else NONCE_BYTES),
        wrapped_size=len(parsed.wrapped) or None,
    )


def of_row(
    connection: psycopg.Connection[Any],
    column: EncryptedColumn,
    key: Sequence[str],
    envelope: Envelope | None = None,
    keyring: psycopg.Connection[Any] | None = None,
) -> Inspected:
    """Inspect the value of one row; ``key`` are the values of its primary key. With ``envelope``, try to decrypt it.

    Errors: ``UsageError`` for a row that is not there or has no value; ``KmsUnavailable``.
    """
    row = _row(connection, column, key)
    value = bytes(row[column.column])
    found = inspect(value, keyring if keyring is not None else connection)
    if envelope is None or found.why_not:
        return found
    try:
        envelope.decrypt(value, column.field, tenant=tenant_of(column, row), row=row_id(column, row))
    except DecryptionFailed:
        return _with_verdict(found, opens=False)
    return _with_verdict(found, opens=True)


def _with_verdict(found: Inspected, *, opens: bool) -> Inspected:
    told = {name: getattr(found, name) for name in Inspected.__slots__}
    return Inspected(**{**told, "opens": opens})


def _row(connection: psycopg.Connection[Any], column: EncryptedColumn, key: Sequence[str]) -> dict[str, Any]:
    names = tables.primary_key(connection, column)
    if len(names) != len(key):
        raise UsageError(f"the key of '{column.table}' is {', '.join(names)}", hint="--key once for each")
    shown = [column.column, *column.row, *([column.tenant] if column.tenant else [])]
    query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
        sql.SQL(", ").join(map(sql.Identifier, dict.fromkeys(shown))),
        tables.identifier(column),
        sql.SQL(" AND ").join(sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder()) for name in names),
    )
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(query, list(key)).fetchone()
    if row is None or row[column.column] is None:
        what = "there is no such row" if row is None else "its value is NULL"
        raise UsageError(f"'{column.table}', key {', '.join(key)}: {what}")
    return row


def _key(keyring: psycopg.Connection[Any], key_id: int) -> KeyRow | None:
    found = rows.read(keyring, after=key_id - 1, limit=1)
    return found[0] if found and found[0].id == key_id else None
