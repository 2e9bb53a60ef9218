"""An async engine: the same paths, and a KMS that is slow holds up nobody but who asked for its key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import selectinload
from tests.envelopes import Bench
from tests.orm_bed import ACME, OTHER, Order, User, stored

from dbsec.crypto import DecryptionFailed
from dbsec.crypto.orm import attach, tenant_scope

Act = Callable[[AsyncEngine, Bench], Awaitable[None]]


@pytest.fixture
def run(orm_engine: Any, orm_bed: Any, tmp_path: Path) -> Callable[[Act], None]:
    """Run a coroutine with an engine of its own, whose keyring is empty."""

    def run(act: Act) -> None:
        async def main() -> None:
            async def connect() -> psycopg.AsyncConnection[Any]:
                return await psycopg.AsyncConnection.connect(orm_bed[2].text())

            bench = Bench(tmp_path)
            engine = create_async_engine("postgresql+psycopg://", async_creator=connect)
            attach(engine, bench.envelope)
            try:
                await act(engine, bench)
            finally:
                await engine.dispose()

        asyncio.run(main())

    return run


def test_every_path_works_on_an_async_engine(run: Callable[[Act], None]) -> None:
    async def act(engine: AsyncEngine, bench: Bench) -> None:
        async with AsyncSession(engine, expire_on_commit=False) as session:
            with tenant_scope(ACME):
                user = User(name="n", tenant_id=ACME, phone="+49 1", email="e")
                user.orders = [Order(tenant_id=ACME, number=1, note="note")]
                session.add(user)
                await session.commit()
                rows = [{"name": "m", "tenant_id": ACME, "phone": f"+49 2{n}"} for n in range(20)]
                await session.execute(insert(User), rows)
                await session.execute(update(User).where(User.name == "n", User.id == user.id).values(phone="+49 3"))
                await session.commit()
                session.expunge_all()
                found = await session.scalars(select(User).options(selectinload(User.orders)).where(User.email == "e"))
                one = found.one()
                assert (one.phone, one.orders[0].note) == ("+49 3", "note")
                assert len((await session.scalars(select(User.phone).where(User.name == "m"))).all()) == 20
                streamed = await session.stream_scalars(select(User.phone).where(User.name == "m"))
                assert sorted([phone async for phone in streamed]) == sorted(row["phone"] for row in rows)
                assert bytes((await session.scalars(select(stored(User.phone)))).first() or b"")[:2] == b"\xd5\x11"
            with tenant_scope(OTHER), pytest.raises(DecryptionFailed):
                (await session.scalars(select(User.phone))).all()

    run(act)


def test_a_connection_reads_rows_outside_of_the_session(run: Callable[[Act], None]) -> None:
    async def act(engine: AsyncEngine, bench: Bench) -> None:
        with tenant_scope(ACME):
            async with engine.begin() as connection:
                await connection.execute(insert(User), {"name": "n", "tenant_id": ACME, "phone": "+49 1"})
                bench.envelope.keyring.forget()
                assert (await connection.execute(select(User.phone))).scalars().all() == ["+49 1"]

    run(act)


def test_tasks_of_two_tenants_do_not_see_each_others_scope(run: Callable[[Act], None]) -> None:
    async def act(engine: AsyncEngine, bench: Bench) -> None:
        async def work(tenant: Any) -> None:
            with tenant_scope(tenant):
                for n in range(10):
                    async with AsyncSession(engine) as session:
                        session.add(User(name="n", phone=f"{tenant} {n}"))
                        await session.commit()
                        mine = await session.scalars(select(User.phone).where(User.tenant_id == tenant))
                        assert len(mine.all()) == n + 1

        await asyncio.gather(work(ACME), work(OTHER))

    run(act)


def test_a_key_that_is_waited_for_does_not_stop_the_loop(run: Callable[[Act], None]) -> None:
    async def act(engine: AsyncEngine, bench: Bench) -> None:
        with tenant_scope(ACME):
            async with AsyncSession(engine) as session:
                session.add(User(name="n", tenant_id=ACME, phone="+49 1"))
                await session.commit()
            for path in (_read, _write):
                bench.envelope.keyring.forget()
                with bench.kms.held():
                    waiting = asyncio.create_task(path(engine))
                    # the KMS is asked in a thread: this loop goes on, and sees it
                    assert await asyncio.to_thread(bench.kms.waiting.acquire, timeout=20)
                    assert not waiting.done()
                assert await waiting == "+49 1"

    run(act)


async def _read(engine: AsyncEngine) -> str | None:
    async with AsyncSession(engine) as session:
        return (await session.scalars(select(User))).one().phone


async def _write(engine: AsyncEngine) -> str | None:
    async with AsyncSession(engine) as session:
        session.add(User(name="m", tenant_id=ACME, phone="+49 2"))
        await session.flush()
        return (await session.scalars(select(User.phone).where(User.name == "n"))).one()
