"""A row that somebody changed in the database: whoever reads it, the one error, which names the column and no data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import select, text, union_all, update
from sqlalchemy.orm import Session, aliased, load_only
from tests.orm_attacks import ATTACKS, EACH, ELSEWHERE, ONE, PHONE, PHOTO, THEIRS, TWO, check_refusal, email, named_key
from tests.orm_bed import ACME, OTHER, Letter, User, stored
from tests.orm_paths import READS

from dbsec.crypto import DecryptionFailed
from dbsec.crypto.orm import EVERY_TENANT, tenant_scope

SCOPES = (ACME, OTHER, EVERY_TENANT)
WHOLE_ROW = {  # of READS, those that fetch every column of the user
    "entity",
    "entity_of_cte",
    "entity_of_union",
    "distinct",
    "joinedload",
    "selectinload",
    "subqueryload",
    "got",
    "on_a_connection",
}


@pytest.fixture
def session(orm_engine: Any) -> Iterator[Session]:
    with Session(orm_engine) as session:
        for number, tenant in ((ONE, ACME), (TWO, ACME), (THEIRS, OTHER)):
            with tenant_scope(tenant):
                values = {"phone": PHONE, "email": email(number), "photo": PHOTO}
                session.add(User(id=number, name="n", tenant_id=tenant, **values))
                session.flush()
        session.expunge_all()
        with tenant_scope(ACME):
            yield session


def _attack(session: Session, column: str, what: str) -> tuple[int, int | None]:
    """Change the row; return its id from then on, and the key that the changed value names."""
    session.execute(text(ATTACKS[column][what]))
    number = ELSEWHERE if what == "to another id" else ONE
    value = session.scalars(select(stored(getattr(User, column))).where(User.id == number)).one()
    return number, named_key(value)


def _reads_of(name: str) -> dict[str, Callable[[int], Any]]:
    """Return queries of one column, in the shapes in which a value's tenant and row come from elsewhere."""
    column, other = getattr(User, name), aliased(User)
    inner, cte = select(User).subquery(), select(User).cte()
    union = union_all(select(User).where(User.id < 0), select(User).where(User.id > 0)).subquery()
    return {
        "column": lambda n: select(column).where(User.id == n),
        "core": lambda n: select(User.__table__.c[name]).where(User.__table__.c.id == n),
        "label": lambda n: select(column.label("x")).where(User.id == n),
        "alias": lambda n: select(getattr(other, name)).where(other.id == n),
        "load_only": lambda n: select(User).options(load_only(column)).where(User.id == n),
        "subquery": lambda n: select(inner.c[name]).where(inner.c.id == n),
        "cte": lambda n: select(cte.c[name]).where(cte.c.id == n),
        "union": lambda n: select(union.c[name]).where(union.c.id == n),
        "update_returning": lambda n: update(User).where(User.id == n).values(name="r").returning(column),
    }


@pytest.mark.parametrize("what", ATTACKS["phone"])
def test_a_tampered_value_is_refused_on_every_path(session: Session, what: str) -> None:
    number, key = _attack(session, "phone", what)
    for name, read in READS.items():
        for scope in SCOPES:  # in one session: what was refused once is not found in its identity map
            with tenant_scope(scope), pytest.raises(DecryptionFailed) as caught:
                pytest.fail(f"{name} read {read(session, number)!r}")
            check_refusal(caught.value, "phone", key)
        assert read(session, TWO) == PHONE, name
        session.expunge_all()


@pytest.mark.parametrize(("column", "what"), [one for one in EACH if one[0] != "phone"])
def test_a_tampered_value_is_refused_by_whoever_fetches_it(session: Session, column: str, what: str) -> None:
    number, key = _attack(session, column, what)
    for name, read in READS.items():
        if name in WHOLE_ROW:
            with pytest.raises(DecryptionFailed) as caught:
                pytest.fail(f"{name} read {read(session, number)!r}")
            check_refusal(caught.value, column, key)
        else:
            assert read(session, number) == PHONE, name
        session.expunge_all()
    for name, statement in _reads_of(column).items():
        for scope in SCOPES:
            with tenant_scope(scope), pytest.raises(DecryptionFailed) as caught:
                pytest.fail(f"{name} read {session.execute(statement(number)).one()!r}")
            check_refusal(caught.value, column, key)
        session.expunge_all()


@pytest.mark.parametrize("column", ["email", "photo"])
def test_the_other_values_of_a_row_that_went_to_another_tenant_are_refused(session: Session, column: str) -> None:
    number, _ = _attack(session, "phone", "to another tenant")
    key = named_key(session.scalars(select(stored(getattr(User, column))).where(User.id == number)).one())
    for name, statement in _reads_of(column).items():
        for scope in SCOPES:
            with tenant_scope(scope), pytest.raises(DecryptionFailed) as caught:
                pytest.fail(f"{name} read {session.execute(statement(number)).one()!r}")
            check_refusal(caught.value, column, key)


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
