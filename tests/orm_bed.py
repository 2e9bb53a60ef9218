"""A model with every kind of encrypted column and key, and an engine that is attached to an envelope."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, ForeignKey, Identity, LargeBinary, MetaData, Text, Uuid, create_engine, type_coerce
from sqlalchemy.engine import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from tests.envelopes import Bench

from dbsec.crypto import BlindIndex, Field, Mode, Normal
from dbsec.crypto.orm import attach, encrypted_column, index_column
from dbsec.pg import Conninfo, connect, own

ACME = UUID("0190c1a0-0000-7000-8000-00000000acee")
OTHER = UUID("0190c1a0-0000-7000-8000-0000000000ff")


class Base(DeclarativeBase):
    metadata = MetaData(schema="shop")
    type_annotation_map: ClassVar[dict[Any, Any]] = {str: Text(), int: BigInteger(), bytes: LargeBinary()}


class User(Base):
    """Every mode at once, under an id of the server."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(Uuid())
    name: Mapped[str]
    phone: Mapped[str | None] = encrypted_column(Field("shop.users", "phone"), tenant="tenant_id")
    phone_bidx: Mapped[int | None] = index_column("phone", BlindIndex(63, normal=Normal.DIGITS))
    email: Mapped[str | None] = encrypted_column(
        Field("shop.users", "email"), tenant="tenant_id", mode=Mode.DETERMINISTIC, unique=True
    )
    photo: Mapped[bytes | None] = encrypted_column(
        Field("shop.users", "photo"), tenant="tenant_id", mode=Mode.INLINE, type="bytes"
    )
    orders: Mapped[list[Order]] = relationship(back_populates="user", order_by="Order.number")
    by_note: Mapped[list[Order]] = relationship(order_by="Order.note", viewonly=True)  # a mistake, for a test


class Order(Base):
    """A composite key made by the client, of which the tenant is a part."""

    __tablename__ = "orders"

    tenant_id: Mapped[UUID] = mapped_column(Uuid(), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("shop.users.id"))
    note: Mapped[str | None] = encrypted_column(Field("shop.orders", "note"), tenant="tenant_id")
    user: Mapped[User | None] = relationship(back_populates="orders")


class Letter(Base):
    """A key made by the client, in a table of no tenant."""

    __tablename__ = "letters"

    id: Mapped[UUID] = mapped_column(Uuid(), primary_key=True, default=uuid4)
    body: Mapped[str | None] = encrypted_column(Field("shop.letters", "body"))
    body_bidx: Mapped[bytes | None] = index_column("body", BlindIndex(16))


class Tag(Base):
    """A key of text, a tenant of text, a key of the server by sequence beside it."""

    __tablename__ = "tags"

    slug: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    secret: Mapped[str] = encrypted_column(Field("shop.tags", "secret"), tenant="tenant")


@contextmanager
def shop(conninfo: Conninfo, folder: Path, **settings: Any) -> Iterator[tuple[Engine, Bench]]:
    """Make schema dbsec, the tables, a keyring, and an engine on them."""
    with connect(conninfo) as admin:
        own.install(admin)
        admin.execute("CREATE SCHEMA shop")
    bench = Bench(folder)
    engine = create_engine("postgresql+psycopg://", creator=lambda: connect(conninfo, autocommit=False), **settings)
    attach(engine, bench.envelope)
    Base.metadata.create_all(engine)
    try:
        yield engine, bench
    finally:
        engine.dispose()


def stored(column: Any) -> Any:
    """Return what stands in the table."""
    return type_coerce(column, LargeBinary())
