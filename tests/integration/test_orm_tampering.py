"""A row that somebody changed in the database: whoever reads it, the one error, which names the column and no data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session
from tests.orm_bed import ACME, OTHER, Letter, User, stored
from tests.orm_paths import READS

from dbsec.crypto import DecryptionFailed
from dbsec.crypto.orm import EVERY_TENANT, tenant_scope

PHONE = "+49 170 5550101"
ONE, TWO, THEIRS = 101, 102, 103
_OTHERS = "UPDATE shop.users SET phone = (SELECT phone FROM shop.users WHERE id = {}) WHERE id = 101"
_BIT = "UPDATE shop.users SET phone = set_byte(phone, {0}, get_byte(phone, {0}) # 1) WHERE id = 101"
MOVED = {
    "from another row": _OTHERS.format(TWO),
    "from another tenant": _OTHERS.format(THEIRS),
    "to another tenant": f"UPDATE shop.users SET tenant_id = '{OTHER}' WHERE id = {ONE}",
    "to another id": f"UPDATE shop.users SET id = {ONE} + 1000 WHERE id = {ONE}",
    "from another column": f"UPDATE shop.users SET phone = photo WHERE id = {ONE}",
    "a tag": _BIT.format("length(phone) - 1"),
    "a nonce": _BIT.format(6),
    "a key id": _BIT.format(2),
    "an end": f"UPDATE shop.users SET phone = substr(phone::bytea, 1, length(phone) - 1) WHERE id = {ONE}",
}


@pytest.fixture
def session(orm_engine: Any) -> Iterator[Session]:
    with Session(orm_engine) as session:
        for number, tenant in ((ONE, ACME), (TWO, ACME), (THEIRS, OTHER)):
            with tenant_scope(tenant):
                session.add(User(id=number, name="n", tenant_id=tenant, phone=PHONE, photo=PHONE.encode()))
                session.flush()
        session.expunge_all()
        with tenant_scope(ACME):
            yield session


@pytest.mark.parametrize("read", READS)
def test_a_tampered_value_is_refused_on_every_path(session: Session, read: str) -> None:
    key = int.from_bytes(session.scalars(select(stored(User.phone)).where(User.id == ONE)).one()[2:6], "big")
    session.execute(text(MOVED["a tag"]))
    with pytest.raises(DecryptionFailed) as caught:
        READS[read](session, ONE)
    assert (caught.value.field, caught.value.key_id) == ("shop.users.phone", key)
    assert str(caught.value) == "a value of 'shop.users.phone' cannot be decrypted"
    assert READS[read](session, TWO) == PHONE


@pytest.mark.parametrize("what", MOVED)
def test_a_value_that_was_moved_or_changed_is_refused(session: Session, what: str) -> None:
    session.execute(text(MOVED[what]))
    for scope in (ACME, OTHER, EVERY_TENANT):
        with tenant_scope(scope), pytest.raises(DecryptionFailed) as caught:
            session.scalars(select(User.phone).where(User.id.in_([ONE, ONE + 1000]))).all()
        assert "555" not in str(caught.value)


def test_another_tenants_row_is_refused_even_if_the_query_finds_it(session: Session) -> None:
    with pytest.raises(DecryptionFailed):
        session.scalars(select(User).where(User.id == THEIRS)).all()


def test_a_deterministic_value_is_no_value_of_a_column_that_binds_rows(session: Session, orm_bench: Any) -> None:
    """It would open under any id: the database refuses it, and where its type does not, we do."""
    field = User.__table__.c.phone.type.field
    unbound = orm_bench.envelope.encrypt_deterministic(PHONE.encode(), field, tenant=str(ACME))
    session.execute(text("ALTER TABLE shop.users ALTER phone TYPE bytea"))
    session.execute(text(f"UPDATE shop.users SET phone = :v WHERE id = {ONE}"), {"v": unbound})
    with pytest.raises(DecryptionFailed):
        session.scalars(select(User.phone).where(User.id == ONE)).all()


def test_what_is_not_encrypted_is_refused_on_reading_too(session: Session) -> None:
    letter = Letter(body="b")
    session.add(letter)
    session.flush()
    session.execute(text("ALTER TABLE shop.letters ALTER body TYPE bytea"))
    for raw in (b"", b"x", b"plain text that is long enough", b"\xd5", b"\xd5\x11" + bytes(10)):
        session.execute(text("UPDATE shop.letters SET body = :v"), {"v": raw})
        with pytest.raises(DecryptionFailed) as caught:
            session.scalars(select(Letter.body)).all()
        assert caught.value.key_id is None, "bytes of a value in clear"


@pytest.mark.parametrize("tenant", ["NULL", f"'{OTHER}'"])
def test_a_tenant_that_was_taken_away_does_not_make_null_of_a_value(session: Session, tenant: str) -> None:
    session.execute(text("ALTER TABLE shop.users ALTER tenant_id DROP NOT NULL"))
    User.__table__.c.tenant_id.nullable = True
    try:
        session.execute(text(f"UPDATE shop.users SET tenant_id = {tenant} WHERE id = {ONE}"))
        session.get_bind()._compiled_cache.clear()  # type: ignore[union-attr]  # hook: ok the column is another one now
        with pytest.raises(DecryptionFailed):
            session.scalars(select(User.phone).where(User.id == ONE)).all()
    finally:
        User.__table__.c.tenant_id.nullable = False
        session.get_bind()._compiled_cache.clear()  # type: ignore[union-attr]  # hook: ok and the old one again
