"""How a release keeps what names a person: in clear, encrypted, or both at once while releases run side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import BigInteger, Column, ColumnElement, DateTime, MetaData, Table, Text, Uuid

from app.encryption import EMAIL, PHONE
from app.settings import Flags, Settings
from dbsec.crypto import BlindIndex
from dbsec.crypto.orm import BlindIndexed, Encrypted

# As core columns: a mapped class would name all of them in each statement, and no release knows them all.
USERS = Table(
    "users",
    MetaData(schema="app"),
    Column("id", BigInteger, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("name", Text),
    Column("email", Text),
    Column("created_at", DateTime(timezone=True)),
    Column("phone", Text),
    Column("phone_enc", Encrypted(PHONE.field, tenant="tenant_id")),
    Column("phone_bidx", BlindIndexed("phone_enc", BlindIndex())),
    Column("email_enc", Encrypted(EMAIL.field, mode=EMAIL.mode, tenant="tenant_id")),
)
TAKEN = ("users_tenant_phone_key", "users_tenant_phone_bidx_key")


class Kept(Protocol):
    """What a release knows of one thing about a person."""

    @property
    def read(self) -> Column[Any]:
        """The column that is read."""

    def stored(self, value: str) -> Mapping[str, Any]:
        """Return the columns of a new row."""

    def same(self, value: str) -> ColumnElement[bool]:
        """Return the condition of a look-up."""


@dataclass(frozen=True, slots=True)
class One:
    """In one column: in clear, or encrypted, which the column's type does."""

    read: Column[Any]

    def stored(self, value: str) -> Mapping[str, Any]:
        return {self.read.name: value}

    def same(self, value: str) -> ColumnElement[bool]:
        return self.read == value


@dataclass(frozen=True, slots=True)
class Changing:
    """In both. Flags decide: ``dual_write`` keeps the old column filled, ``read_switch`` reads the new one.

    Both flags on or off are safe to go back from while ``dual_write`` was never off; without ``dual_write`` the old
    column ends, and reads are of the new one whatever ``read_switch`` says.
    """

    old: Column[Any]
    new: Column[Any]
    flags: Callable[[], Flags]

    @property
    def read(self) -> Column[Any]:
        flags = self.flags()
        return self.old if flags.dual_write and not flags.read_switch else self.new

    def stored(self, value: str) -> Mapping[str, Any]:
        both = {self.old.name: value} if self.flags().dual_write else {}
        return {**both, self.new.name: value}

    def same(self, value: str) -> ColumnElement[bool]:
        return self.read == value


@dataclass(frozen=True, slots=True)
class People:
    """What a release knows of each."""

    phone: Kept
    email: Kept

    @classmethod
    def of(cls, settings: Settings, flags: Callable[[], Flags]) -> People:
        """Read from the settings which columns this release knows."""

        def kept(name: str) -> Kept:
            old, new = USERS.c[name], USERS.c[f"{name}_enc"]
            if name in settings.changing:
                return Changing(old, new, flags)
            return One(new if name in settings.encrypted else old)

        return cls(kept("phone"), kept("email"))
