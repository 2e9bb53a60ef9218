"""Threads of two tenants, a fork, a KMS that is away: no value under another's key, and none in clear."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import create_engine, event, insert, select
from sqlalchemy.orm import Session
from tests.envelopes import Bench
from tests.forks import in_a_child
from tests.orm_bed import ACME, OTHER, User, stored

from dbsec.crypto.orm import attach, tenant_scope
from dbsec.kms import KmsUnavailable

ROUNDS, BATCH, FLUSHED = 20, 1200, 50  # two threads, two columns: 10^5 values


def test_two_threads_of_two_tenants_never_meet_each_others_keys(orm_engine: Any, orm_bench: Bench) -> None:
    start = threading.Barrier(2)

    def work(tenant: UUID) -> None:
        with Session(orm_engine) as session, tenant_scope(tenant):
            for turn in range(ROUNDS):
                start.wait(60)
                rows = [_row(tenant, turn * BATCH + n) for n in range(BATCH)]
                session.execute(insert(User), rows)
                session.add_all([User(**_row(tenant, (ROUNDS * BATCH) + turn * FLUSHED + n)) for n in range(FLUSHED)])
                session.commit()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, tenant) for tenant in (ACME, OTHER)]:
            done.result()

    total = ROUNDS * (BATCH + FLUSHED)
    assert 4 * total >= 100_000
    with Session(orm_engine) as session:
        for tenant in (ACME, OTHER):
            columns = select(stored(User.phone), stored(User.email)).where(User.tenant_id == tenant)
            values = [bytes(value) for row in session.execute(columns) for value in row]
            assert len(values) == 2 * total
            keys = {int.from_bytes(value[2:6], "big") for value in values}
            assert {orm_bench.rows[key].tenant for key in keys} == {str(tenant)}
            with tenant_scope(tenant):
                found = session.execute(select(User.name, User.phone, User.email).where(User.tenant_id == tenant))
                assert {tuple(row) for row in found} == {
                    (row["name"], row["phone"], row["email"]) for row in (_row(tenant, n) for n in range(total))
                }


def _row(tenant: UUID, n: int) -> dict[str, Any]:
    return {"name": f"{n}", "tenant_id": tenant, "phone": f"+49 {tenant} {n}", "email": f"{n}@{tenant}"}


@pytest.fixture
def cold(orm_engine: Any, orm_bench: Bench, tmp_path: Path) -> Iterator[tuple[Any, Bench, list[str]]]:
    """An engine with a keyring of its own, nothing cached, and all that it sends."""
    bench = Bench(tmp_path)
    engine = create_engine("postgresql+psycopg://", creator=orm_engine.pool._creator)  # hook: ok the same server
    attach(engine, bench.envelope)
    seen: list[str] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        seen.append(f"{statement} {parameters}")

    event.listen(engine, "before_cursor_execute", note)
    yield engine, bench, seen
    engine.dispose()


def test_a_kms_that_is_away_at_a_flush_ends_it_and_nothing_was_sent(cold: tuple[Any, Bench, list[str]]) -> None:
    engine, bench, sent = cold
    bench.kms.away = True
    with Session(engine) as session, tenant_scope(ACME):
        session.add(User(name="before", tenant_id=ACME))
        session.flush()
        session.add(User(name="n", tenant_id=ACME, phone="+49 30 canary"))
        with pytest.raises(KmsUnavailable, match="does not answer"):
            session.commit()
        session.rollback()
        assert session.scalars(select(User.id)).all() == []
        assert not any("canary" in statement for statement in sent)
        bench.kms.away = False
        session.add(User(name="n", tenant_id=ACME, phone="+49 30 canary"))
        session.commit()
        assert session.scalars(select(User.phone)).all() == ["+49 30 canary"]


def test_a_kms_that_is_away_during_a_flush_takes_the_whole_transaction_back(cold: tuple[Any, Bench, list[str]]) -> None:
    """The key of one tenant is cached, the other's is not: what the first wrote in this transaction goes too."""
    engine, bench, sent = cold
    with Session(engine) as session:
        with tenant_scope(ACME):
            session.add(User(name="n", tenant_id=ACME, phone="+49 1"))
            session.flush()
        bench.kms.away = True
        with tenant_scope(OTHER), pytest.raises(KmsUnavailable):
            session.execute(insert(User), [{"name": "n", "tenant_id": OTHER, "phone": f"canary {n}"} for n in range(9)])
        session.rollback()
        assert session.scalars(select(User.id)).all() == []
    assert not any("canary" in statement for statement in sent)


def test_a_kms_that_is_away_is_told_as_such_by_reading_and_by_a_lookup(
    cold: tuple[Any, Bench, list[str]], orm_engine: Any
) -> None:
    engine, bench, sent = cold
    with Session(engine) as session, tenant_scope(ACME):
        session.add(User(name="n", tenant_id=ACME, phone="+49 1", email="e"))
        session.commit()
        bench.envelope.keyring.forget()
        bench.kms.away = True
        for question in (select(User), select(User.phone), select(User.id).where(User.phone == "canary")):
            with pytest.raises(KmsUnavailable) as caught:
                session.scalars(question).all()
            assert "canary" not in str(caught.value)
            session.rollback()
        bench.kms.away = False
        assert session.scalars(select(User.phone)).all() == ["+49 1"]
    assert not any("canary" in statement for statement in sent)


def test_a_fork_reads_with_keys_that_it_fetches_itself(cold: tuple[Any, Bench, list[str]], orm_engine: Any) -> None:
    engine, bench, _ = cold
    with Session(engine) as session, tenant_scope(ACME):
        session.add(User(name="n", tenant_id=ACME, phone="+49 1"))
        session.commit()
        assert session.scalars(select(User.phone)).all() == ["+49 1"]

    def read() -> None:
        engine.dispose(close=False)
        before = bench.kms.unwrapped
        with Session(engine) as session, tenant_scope(ACME):
            assert session.scalars(select(User.phone)).all() == ["+49 1"]
        assert bench.kms.unwrapped == before + 1

    assert in_a_child(read) == 0
