"""Encrypted rows over plain psycopg: the same declarations, the same refusals, and values that the ORM reads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import insert, select
from sqlalchemy.orm import Session
from tests.orm_attacks import (
    ATTACKS,
    EACH,
    ELSEWHERE,
    ONE,
    PHONE,
    PHOTO,
    THEIRS,
    TWO,
    check_refusal,
    email,
    named_key,
)
from tests.orm_bed import ACME, OTHER, Letter, User

from dbsec.crypto import DecryptionFailed, ModeRefused
from dbsec.crypto.errors import Unbound
from dbsec.crypto.orm import EVERY_TENANT, declared, tenant_scope
from dbsec.crypto.rows import EncryptedRows
from dbsec.errors import UsageError
from dbsec.pg import connect

COLUMNS = {column.column: column for column in declared(User.__table__)}
INSERT = """
INSERT INTO shop.users (id, name, tenant_id, phone, phone_bidx, email, photo)
VALUES (%(id)s, 'n', %(tenant_id)s, %(phone)s, %(phone_bidx)s, %(email)s, %(photo)s)
"""
SELECT = "SELECT * FROM shop.users WHERE tenant_id = %s ORDER BY id"


@pytest.fixture
def rows(orm_engine: Any, orm_bench: Any) -> EncryptedRows:
    return EncryptedRows(orm_bench.envelope, [replace(column) for column in COLUMNS.values()])


@pytest.fixture
def plain(orm_bed: Any) -> Iterator[psycopg.Connection[Any]]:
    with connect(orm_bed[2]) as session:
        session.row_factory = dict_row
        yield session


def _user(number: int, tenant: Any = ACME, **values: Any) -> dict[str, Any]:
    return {
        "id": number,
        "tenant_id": tenant,
        "phone": f"+49 {number}",
        "email": f"{number}@x",
        "photo": b"p",
        **values,
    }


def test_what_psycopg_writes_psycopg_and_the_orm_read(
    rows: EncryptedRows, plain: psycopg.Connection[Any], orm_engine: Any
) -> None:
    users = [_user(1), _user(2, phone=None, email=None, photo=None)]
    before = [dict(user) for user in users]
    with tenant_scope(ACME):
        plain.cursor().executemany(INSERT, rows.encrypt(users))
        found = rows.decrypt(plain.execute(SELECT, [ACME]).fetchall())
        assert [{name: row[name] for name in user} for user, row in zip(users, found, strict=True)] == users == before
        with Session(orm_engine) as session:
            assert session.scalars(select(User.id).where(User.phone == "+491")).all() == [1]
            assert session.execute(select(User.phone, User.email, User.photo).where(User.id == 1)).one() == (
                "+49 1",
                "1@x",
                b"p",
            )


def test_what_the_orm_writes_psycopg_reads_and_finds(
    rows: EncryptedRows, plain: psycopg.Connection[Any], orm_engine: Any
) -> None:
    with Session(orm_engine) as session, tenant_scope(ACME):
        session.execute(insert(User), [{**_user(1), "name": "n"}])
        session.commit()
        for name, column, value in (("phone", "phone_bidx", "+49-1"), ("email", "email", "1@x")):
            query = f"SELECT * FROM shop.users WHERE {column} = %s".encode()
            (row,) = rows.decrypt(plain.execute(query, [rows.term(name, value)]).fetchall())
            assert (row["phone"], row["email"], row["photo"]) == ("+49 1", "1@x", b"p")


def test_async_calls_do_the_same(rows: EncryptedRows) -> None:
    async def act() -> None:
        with tenant_scope(ACME):
            made = await rows.aencrypt([_user(1)])
            assert made[0]["phone"] != "+49 1"
            assert (await rows.adecrypt(made))[0]["phone"] == "+49 1"

    asyncio.run(act())


def test_the_database_refuses_what_was_not_encrypted(rows: EncryptedRows, plain: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        plain.execute(INSERT, {**_user(1), "phone_bidx": None})


def test_a_row_says_whose_and_which_it_is(rows: EncryptedRows) -> None:
    with pytest.raises(Unbound, match="no tenant is set"):
        rows.encrypt([_user(1, tenant=None)])
    with tenant_scope(OTHER), pytest.raises(Unbound, match="another tenant"):
        rows.encrypt([_user(1)])
    with tenant_scope(ACME):
        with pytest.raises(Unbound, match="'id'"):
            rows.encrypt([_user(None)])  # type: ignore[arg-type]
        made = rows.encrypt([_user(1, tenant=None)])
        assert made[0]["tenant_id"] == str(ACME)
        for name in ("id", "tenant_id"):
            with pytest.raises(Unbound, match=f"'{name}'"):
                rows.decrypt([{key: value for key, value in made[0].items() if key != name}])


def test_a_row_of_another_tenant_or_another_id_is_refused(rows: EncryptedRows) -> None:
    with tenant_scope(ACME):
        made = rows.encrypt([_user(1), _user(2)])
        assert rows.decrypt(made) == [{**row, **_user(n)} for n, row in enumerate(made, 1)]
        for moved in ({"id": 3}, {"tenant_id": OTHER}, {"phone": made[1]["phone"]}, {"email": made[0]["phone"]}):
            with pytest.raises(DecryptionFailed) as caught:
                rows.decrypt([{**made[0], **moved}])
            assert caught.value.key_id is not None
    with tenant_scope(OTHER), pytest.raises(DecryptionFailed):
        rows.decrypt(made)
    with pytest.raises(Unbound):
        rows.decrypt(made)
    with tenant_scope(EVERY_TENANT):
        assert rows.decrypt(made)[1]["phone"] == "+49 2"


def test_a_batch_of_many_tenants_is_encrypted_under_each_ones_key(rows: EncryptedRows, orm_bench: Any) -> None:
    with tenant_scope(EVERY_TENANT):
        made = rows.encrypt([_user(n, tenant=(ACME, OTHER)[n % 2]) for n in range(6)])
        assert [row["phone"] for row in rows.decrypt(made)] == [f"+49 {n}" for n in range(6)]
    tenants = [orm_bench.rows[int.from_bytes(row["phone"][2:6], "big")].tenant for row in made]
    assert tenants == [str((ACME, OTHER)[n % 2]) for n in range(6)]


def test_what_a_column_cannot_do_is_refused(rows: EncryptedRows, orm_bench: Any) -> None:
    with tenant_scope(ACME), pytest.raises(ModeRefused, match="differently each time"):
        rows.term("photo", b"p")
    with tenant_scope(EVERY_TENANT), pytest.raises(Unbound, match="every tenant"):
        rows.term("phone", "+49 1")
    with pytest.raises(ModeRefused, match="several tables"):
        EncryptedRows(orm_bench.envelope, [*declared(User.__table__), *declared(Letter.__table__)])
    for wrong in ({"phone": 4930}, {"photo": "4930"}, {"email": "4930\ud800"}):
        with pytest.raises(UsageError) as caught:
            rows.encrypt([_user(1, **wrong)])
        assert "4930" not in str(caught.value)


def test_a_table_of_no_tenant_needs_none(orm_bench: Any) -> None:
    letters = EncryptedRows(orm_bench.envelope, declared(Letter.__table__))
    row = {"id": ACME, "body": "text"}
    (made,) = letters.encrypt([row])
    assert made["body_bidx"] == letters.term("body", "text")
    assert letters.decrypt([made])[0]["body"] == "text"


@pytest.mark.parametrize(("column", "what"), EACH)
def test_a_tampered_row_is_refused_as_the_orm_refuses_it(
    rows: EncryptedRows, plain: psycopg.Connection[Any], column: str, what: str
) -> None:
    for number, tenant in ((ONE, ACME), (TWO, ACME), (THEIRS, OTHER)):
        with tenant_scope(tenant):
            user = _user(number, tenant, phone=PHONE, email=email(number), photo=PHOTO)
            plain.cursor().executemany(INSERT, rows.encrypt([user]))
    plain.execute(ATTACKS[column][what].encode())
    query = "SELECT * FROM shop.users WHERE id = ANY(%s) ORDER BY id"
    (row,) = plain.execute(query, [[ONE, ELSEWHERE]]).fetchall()
    good = plain.execute(query, [[TWO]]).fetchall()
    key, alone = named_key(row[column]), {name: row[name] for name in ("id", "tenant_id", column)}
    for scope in (ACME, OTHER, EVERY_TENANT):
        with tenant_scope(scope), pytest.raises(DecryptionFailed) as caught:
            rows.decrypt([alone])
        check_refusal(caught.value, column, key)
    for batch in ([row], [*good, row], [row, *good]):
        with tenant_scope(EVERY_TENANT), pytest.raises(DecryptionFailed) as caught:
            rows.decrypt(batch)
        check_refusal(caught.value, column, key)
    with tenant_scope(ACME):
        assert rows.decrypt(good)[0]["phone"] == PHONE


def test_null_stays_null_beside_values_and_a_missing_column_stays_missing(
    rows: EncryptedRows, plain: psycopg.Connection[Any]
) -> None:
    nothing = {"phone": None, "email": None, "photo": None}
    users = [_user(1), _user(2, **nothing), _user(3, phone=None), _user(4, photo=None), _user(5, email=None)]
    with tenant_scope(ACME):
        made = rows.encrypt(users)
        assert [row["phone_bidx"] is None for row in made] == [False, True, True, False, False]
        plain.cursor().executemany(INSERT, made)
        stored = plain.execute(SELECT, [ACME]).fetchall()
        for before, row, after in zip(users, stored, rows.decrypt(stored), strict=True):
            for name in nothing:
                assert after[name] == before[name]
                assert (row[name] is None) is (before[name] is None)
        assert rows.encrypt([{"id": 6, "tenant_id": ACME}]) == [{"id": 6, "tenant_id": ACME}]
        assert rows.decrypt([{"name": "n"}, {"phone": None}]) == [{"name": "n"}, {"phone": None}]
    assert (rows.encrypt([]), rows.decrypt([])) == ([], [])


def test_two_threads_of_two_tenants_do_not_meet(rows: EncryptedRows, orm_bed: Any, orm_bench: Any) -> None:
    both, rounds = Barrier(2, timeout=20), 20

    def act(tenant: Any, start: int) -> list[dict[str, Any]]:
        with pytest.raises(Unbound):
            rows.term("phone", "+49 1")  # no scope comes from the thread that started this one
        with connect(orm_bed[2]) as session, tenant_scope(tenant):
            session.row_factory = dict_row
            for number in range(start, start + rounds):
                both.wait()
                session.cursor().executemany(INSERT, rows.encrypt([_user(number, tenant=None)]))
                query = b"SELECT * FROM shop.users WHERE phone_bidx = %s"
                (row,) = rows.decrypt(session.execute(query, [rows.term("phone", f"+49 {number}")]).fetchall())
                assert (row["tenant_id"], row["phone"], row["photo"]) == (tenant, f"+49 {number}", b"p")
            return session.execute(SELECT, [tenant]).fetchall()

    with tenant_scope(EVERY_TENANT), ThreadPoolExecutor(2) as threads:
        of = {tenant: threads.submit(act, tenant, start) for tenant, start in ((ACME, 1000), (OTHER, 2000))}
        stored = {tenant: made.result(60) for tenant, made in of.items()}
    for tenant, other in ((ACME, OTHER), (OTHER, ACME)):
        keys = {named_key(row["phone"]) for row in stored[tenant]}
        assert [orm_bench.rows[key].tenant for key in keys] == [str(tenant)] * len(keys)
        assert len(stored[tenant]) == rounds
        for row in stored[other]:
            with tenant_scope(tenant), pytest.raises(DecryptionFailed):
                rows.decrypt([row])
