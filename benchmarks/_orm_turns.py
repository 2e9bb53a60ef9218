"""One turn of benchmarks/orm.py on any mapped class; run as a script it is the side of SQLAlchemy-Utils.

This file runs in the peer's environment too: it imports SQLAlchemy and psycopg, and nothing of dbsec.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import BigInteger, Text, Uuid, create_engine, insert, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

TENANT = UUID("0190c1a0-0000-7000-8000-00000000acee")
ACTS = ("bulk insert", "flush", "entity select", "column select")
Turn = dict[str, float]  # act -> microseconds of this process's CPU a row


class Base(DeclarativeBase):
    """What both sides map."""


class Plain(Base):
    """The same row in clear."""

    __tablename__ = "plain"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tenant_id: Mapped[UUID] = mapped_column(Uuid())
    name: Mapped[str] = mapped_column(Text())
    value: Mapped[str] = mapped_column(Text())


def engine_of(dsn: str) -> Engine:
    """Return an engine on one server."""
    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))


def turn(engine: Engine, kind: Any, rows: int, flushed: int) -> Turn:
    """Write and read the rows of a table once, in each way."""
    made = [{"id": n, "tenant_id": TENANT, "name": f"name {n}", "value": f"{n:064}"} for n in range(rows)]
    found: Turn = {}
    with Session(engine) as session:
        session.execute(text(f"TRUNCATE {kind.__tablename__}"))
        session.commit()
        found["bulk insert"] = cpu_us(lambda: (session.execute(insert(kind), made), session.commit()), rows)
        objects = [kind(**{**row, "id": row["id"] + rows}) for row in made[:flushed]]
        found["flush"] = cpu_us(lambda: (session.add_all(objects), session.commit()), flushed)
        session.expunge_all()
        all_of = select(kind).where(kind.id < rows)
        found["entity select"] = cpu_us(lambda: session.scalars(all_of).all(), rows)
        session.expunge_all()
        column = select(kind.value).where(kind.id < rows)
        found["column select"] = cpu_us(lambda: _same(session.scalars(column).all(), rows), rows)
    return found


def _same(values: Any, rows: int) -> None:
    if len(values) != rows or values[0] is None or len(values[0]) != 64:
        raise SystemExit("what was read is not what was written")


def cpu_us(act: Callable[[], object], rows: int) -> float:
    """Return what an act costs this process a row: the time of the server and of waiting for it is not in it."""
    gc.collect()
    gc.freeze()  # or the collector would walk through the rows of this benchmark again and again
    begin = time.process_time()
    act()
    spent = time.process_time() - begin
    gc.unfreeze()
    return spent / rows * 1e6


def main() -> None:
    """Answer each line of stdin with a turn of each of this side's tables."""
    from sqlalchemy_utils import StringEncryptedType
    from sqlalchemy_utils.types.encrypted.encrypted_type import AesGcmEngine

    class Peer(Base):
        __tablename__ = "by_sqlalchemy_utils"

        id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
        tenant_id: Mapped[UUID] = mapped_column(Uuid())
        name: Mapped[str] = mapped_column(Text())
        value: Mapped[str] = mapped_column(StringEncryptedType(Text, "a key of the benchmark", AesGcmEngine))

    engine = engine_of(sys.stdin.readline().strip())
    Base.metadata.create_all(engine)
    for line in sys.stdin:
        rows, flushed = json.loads(line)
        print(json.dumps({kind.__tablename__: turn(engine, kind, rows, flushed) for kind in (Plain, Peer)}), flush=True)


if __name__ == "__main__":
    main()
