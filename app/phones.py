"""How a release keeps phone numbers: in clear, or encrypted with both at once while releases run side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import BigInteger, Column, ColumnElement, DateTime, LargeBinary, MetaData, Table, Text, Uuid

from app.phone_cipher import PhoneCipher
from app.settings import Flags

# As core columns: a mapped class would name all of them in each statement, and no release knows them all.
USERS = Table(
    "users",
    MetaData(schema="app"),
    Column("id", BigInteger),
    Column("tenant_id", Uuid),
    Column("name", Text),
    Column("email", Text),
    Column("created_at", DateTime(timezone=True)),
    Column("phone", Text),
    Column("phone_enc", LargeBinary),
    Column("phone_bidx", LargeBinary),
)
TAKEN = ("users_tenant_phone_key", "users_tenant_phone_bidx_key")


class Phones(Protocol):
    """What a release knows of the columns."""

    def columns(self) -> Sequence[Column[Any]]:
        """Name what a row must bring for ``shown``."""

    def shown(self, row: Any, tenant: UUID) -> str:
        """Return the phone of a row."""

    def stored(self, phone: str, tenant: UUID) -> Mapping[str, Any]:
        """Return the values of a new row."""

    def same(self, phone: str, tenant: UUID) -> ColumnElement[bool]:
        """Return the condition of a look-up."""


class Clear:
    """The old release: it knows one column, and must run beside the new one."""

    def columns(self) -> Sequence[Column[Any]]:
        return (USERS.c.phone,)

    def shown(self, row: Any, tenant: UUID) -> str:
        return str(row.phone)

    def stored(self, phone: str, tenant: UUID) -> Mapping[str, Any]:
        return {"phone": phone}

    def same(self, phone: str, tenant: UUID) -> ColumnElement[bool]:
        return USERS.c.phone == phone


class Encrypted:
    """The new release. Flags decide: ``dual_write`` keeps the old column filled, ``read_switch`` reads the new ones.

    Both flags on or off are safe to go back from while ``dual_write`` was never off; without ``dual_write`` the old
    column ends, and reads are of the new ones whatever ``read_switch`` says.
    """

    def __init__(self, cipher: PhoneCipher, flags: Callable[[], Flags]) -> None:
        self._cipher = cipher
        self._flags = flags

    @property
    def _reads_old(self) -> bool:
        flags = self._flags()
        return flags.dual_write and not flags.read_switch

    def columns(self) -> Sequence[Column[Any]]:
        return (USERS.c.phone,) if self._reads_old else (USERS.c.phone_enc,)

    def shown(self, row: Any, tenant: UUID) -> str:
        return self._cipher.decrypt(row.phone_enc, tenant) if hasattr(row, "phone_enc") else str(row.phone)

    def stored(self, phone: str, tenant: UUID) -> Mapping[str, Any]:
        new = {"phone_enc": self._cipher.encrypt(phone, tenant), "phone_bidx": self._cipher.index(phone, tenant)}
        return {**new, "phone": phone} if self._flags().dual_write else new

    def same(self, phone: str, tenant: UUID) -> ColumnElement[bool]:
        return USERS.c.phone == phone if self._reads_old else USERS.c.phone_bidx == self._cipher.index(phone, tenant)
