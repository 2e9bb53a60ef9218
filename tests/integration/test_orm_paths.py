"""Every path that writes against every path that reads: what comes back is what went in, and it stood encrypted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload, selectinload
from tests.orm_bed import ACME, OTHER, Letter, Order, Tag, User, stored
from tests.orm_paths import READS, WRITES

from dbsec.crypto.orm import EVERY_TENANT, tenant_scope

PHONE, EMAIL, PHOTO = "+49 170 5550101", "zoe@example.org", b"\x89PNG\x00"


@pytest.fixture
def session(orm_engine: Any) -> Iterator[Session]:
    with Session(orm_engine) as session, tenant_scope(ACME):
        yield session


@pytest.mark.parametrize("write", WRITES)
def test_what_a_path_writes_every_path_reads(session: Session, write: str) -> None:
    number = WRITES[write](session, {"phone": PHONE, "email": EMAIL, "photo": PHOTO})
    session.expunge_all()
    for name, read in READS.items():
        assert read(session, number) == PHONE, name
        session.expunge_all()
    row = session.execute(select(User.email, User.photo).where(User.id == number)).one()
    assert tuple(row) == (EMAIL, PHOTO)


@pytest.mark.parametrize("write", WRITES)
def test_what_a_path_writes_stands_encrypted_and_is_found(session: Session, write: str) -> None:
    number = WRITES[write](session, {"phone": PHONE, "email": EMAIL, "photo": PHOTO})
    columns = [stored(column) for column in (User.phone, User.email, User.photo)]
    phone, email, photo = session.execute(select(*columns).where(User.id == number)).one()
    assert [bytes(value[:2]) for value in (phone, email, photo)] == [b"\xd5\x11", b"\xd5\x12", b"\xd5\x13"]
    assert number in session.scalars(select(User.id).where(User.phone == "+49-170-555 01 01")).all()
    assert session.scalars(select(User.id).where(User.email == EMAIL)).all() == [number]


@pytest.mark.parametrize("write", WRITES)
def test_null_is_written_and_read_by_every_path(session: Session, write: str) -> None:
    values: dict[str, Any] = {"phone": None, "email": None, "photo": None}
    number = WRITES[write](session, values)
    session.expunge_all()
    assert [read(session, number) for read in READS.values()] == [None] * len(READS)
    row = session.execute(select(User.phone_bidx, User.email, User.photo).where(User.id == number)).one()
    assert tuple(row) == (None, None, None)


def test_an_outer_join_without_a_row_reads_null(session: Session) -> None:
    session.add(User(name="n", tenant_id=ACME, phone=PHONE))
    session.flush()
    assert session.execute(select(User.phone, Order.note).outerjoin(Order)).all() == [(PHONE, None)]


def test_values_of_relations_are_read_whichever_way_these_are_loaded(session: Session) -> None:
    user = User(name="n", tenant_id=ACME, phone=PHONE)
    user.orders = [Order(tenant_id=ACME, number=n, note=f"note {n}") for n in (1, 2)]
    session.add(user)
    session.flush()
    for option in (joinedload(User.orders), selectinload(User.orders)):
        session.expunge_all()
        found = session.scalars(select(User).options(option).limit(1)).unique().one()
        assert [order.note for order in found.orders] == ["note 1", "note 2"]


def test_keys_of_every_type_bind(session: Session) -> None:
    letters = [Letter(body=f"body {n}") for n in range(3)]
    session.add_all(
        [*letters, Tag(slug="ä/β", tenant=str(ACME), secret="s"), Order(tenant_id=ACME, number=7, note="n")]
    )
    session.flush()
    session.expunge_all()
    assert {letter.id: letter.body for letter in session.scalars(select(Letter))} == {
        letter.id: f"body {n}" for n, letter in enumerate(letters)
    }
    assert session.scalars(select(Tag.secret)).all() == ["s"]
    assert session.scalars(select(Order.note)).all() == ["n"]


def test_a_job_reads_all_tenants_by_saying_so(session: Session) -> None:
    for tenant in (ACME, OTHER):
        with tenant_scope(tenant):
            session.add(User(name="n", tenant_id=tenant, phone=f"of {tenant}"))
            session.flush()
    session.expunge_all()
    with tenant_scope(EVERY_TENANT):
        found = {user.tenant_id: user.phone for user in session.scalars(select(User))}
    assert found == {tenant: f"of {tenant}" for tenant in (ACME, OTHER)}


def test_a_job_writes_rows_of_many_tenants_each_under_its_own_key(session: Session, orm_bench: Any) -> None:
    with tenant_scope(EVERY_TENANT):
        session.add_all([User(name="n", tenant_id=tenant, phone="same") for tenant in (ACME, OTHER, ACME)])
        session.flush()
    for tenant in (ACME, OTHER):
        rows = session.scalars(select(stored(User.phone)).where(User.tenant_id == tenant)).all()
        keys = {int.from_bytes(row[2:6], "big") for row in rows}
        assert [orm_bench.rows[key].tenant for key in keys] == [str(tenant)]
