"""What of app.users is encrypted and how, the envelope that does it, and the functions that the backfills call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any
from urllib.parse import quote

from app.settings import number
from dbsec.crypto import (
    BlindIndex,
    CryptoSettings,
    DecryptionFailed,
    EncryptedColumn,
    Envelope,
    Field,
    Mode,
    open_envelope,
)
from dbsec.errors import ConfigError
from dbsec.pg import Conninfo, connect
from dbsec.secret import resolve

# Names of the contract with the ciphertexts: they stay, whatever the table is called.
PHONE = EncryptedColumn(
    "app.users", "phone_enc", Field("app.users", "phone"), tenant="tenant_id", index=("phone_bidx", BlindIndex())
)
EMAIL = EncryptedColumn(
    "app.users", "email_enc", Field("app.users", "email"), mode=Mode.DETERMINISTIC, tenant="tenant_id"
)
Row = Mapping[str, Any]


def open_for(environ: Mapping[str, str], conninfo: Callable[[], Conninfo]) -> Envelope:
    """Open the KMS of ``APP_KMS`` (a URI; ``APP_KMS_TOKEN`` refers to its token), with the keyring in our database.

    ``APP_KEY_TTL_S``: how long a key serves before it is asked for again. Errors: ``ConfigError``.
    """
    uri = environ.get("APP_KMS", "")
    if not uri:
        raise ConfigError("APP_KMS is not set", hint="export APP_KMS='vault-transit://HOST:8200/transit/app-{tenant}'")
    if token := environ.get("APP_KMS_TOKEN", ""):
        uri += ("&" if "?" in uri else "?") + f"token={quote(token, safe=':/')}"
    ttl = f"{number(environ, 'APP_KEY_TTL_S', 300, most=86_400):g}s"
    return open_envelope(CryptoSettings.model_validate({"kms": uri, "ttl": ttl}), lambda: connect(conninfo()), environ)


@cache
def _envelope() -> Envelope:
    """Open the envelope of a backfill's process, which gets the service's own variables."""
    return open_for(os.environ, lambda: Conninfo.parse(resolve(os.environ["APP_DSN"], environ=os.environ).reveal()))


def encrypt_phones(rows: Sequence[Row]) -> Iterable[Row]:
    """Fill ``phone_enc`` and ``phone_bidx`` from ``phone``: the batch function of the backfill."""
    assert PHONE.index is not None
    column, how = PHONE.index
    for tenant, some in _by_tenant(rows):
        phones, ids = [row["phone"].encode() for row in some], [row["id"] for row in some]
        values = _envelope().encrypt_many(phones, PHONE.field, tenant=tenant, rows=ids)
        for row, value in zip(some, values, strict=True):
            index = _envelope().blind_index(row["phone"], PHONE.field, how, tenant=tenant)
            yield {"id": row["id"], PHONE.column: value, column: index}


def phones_agree(rows: Sequence[Row]) -> Iterable[bool]:
    """Tell of each row whether its new columns hold its phone: the check of the backfill."""
    assert PHONE.index is not None
    column, how = PHONE.index
    for row in rows:
        tenant = str(row["tenant_id"])
        index = _envelope().blind_index(row["phone"], PHONE.field, how, tenant=tenant)
        yield row[column] == index and _opened(row[PHONE.column], PHONE, tenant, row["id"]) == row["phone"]


def encrypt_emails(rows: Sequence[Row]) -> Iterable[Row]:
    """Fill ``email_enc`` from ``email``."""
    for row in rows:
        tenant, email = str(row["tenant_id"]), row["email"].encode()
        yield {"id": row["id"], EMAIL.column: _envelope().encrypt_deterministic(email, EMAIL.field, tenant=tenant)}


def emails_agree(rows: Sequence[Row]) -> Iterable[bool]:
    """Tell of each row whether ``email_enc`` holds its e-mail address."""
    for row in rows:
        yield _opened(row[EMAIL.column], EMAIL, str(row["tenant_id"]), row["id"]) == row["email"]


def _opened(value: bytes | None, column: EncryptedColumn, tenant: str, row: int) -> str | None:
    try:
        return _envelope().decrypt(value or b"", column.field, tenant=tenant, row=row).decode()
    except DecryptionFailed:
        return None


def _by_tenant(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    ordered = sorted(rows, key=lambda row: str(row["tenant_id"]))
    return ((tenant, list(some)) for tenant, some in groupby(ordered, key=lambda row: str(row["tenant_id"])))
