"""The tables of schema.sql as SQLAlchemy sees them; a test compares the two."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, FetchedValue, Identity, LargeBinary, MetaData, SmallInteger, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Types by annotation: text without a length, times with a zone, 64-bit integers."""

    metadata = MetaData(schema="app")
    type_annotation_map = {str: Text(), datetime: DateTime(timezone=True), int: BigInteger(), bytes: LargeBinary()}  # noqa: RUF012


class Tenant(Base):
    """Who pays, and the hash of the key that its programs log in with."""

    __tablename__ = "tenants"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    slug: Mapped[str]
    name: Mapped[str]
    api_key_hash: Mapped[bytes]


class User(Base):
    """A person that a tenant knows."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    tenant_id: Mapped[UUID]
    name: Mapped[str]
    email: Mapped[str]
    phone: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())


class Order(Base):
    """What a user bought."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    tenant_id: Mapped[UUID]
    user_id: Mapped[int]
    amount_cents: Mapped[int]
    currency: Mapped[str]
    note: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())


class IdempotencyKey(Base):
    """A write that may be sent again, and its answer."""

    __tablename__ = "idempotency_keys"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[bytes]
    status: Mapped[int | None] = mapped_column(SmallInteger())
    response: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())
