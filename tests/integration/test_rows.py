"""Encrypted rows over plain psycopg: the same declarations, the same refusals, and values that the ORM reads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import insert, select
from sqlalchemy.orm import Session
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
