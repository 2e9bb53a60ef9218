"""What may be asked of an encrypted column in SQL: equality is answered, all else is refused by name with a way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import (
    Text,
    bindparam,
    case,
    cast,
    delete,
    desc,
    exists,
    func,
    literal,
    select,
    text,
    tuple_,
    union,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session, aliased, joinedload
from tests.orm_bed import ACME, OTHER, Letter, User, stored

from dbsec.crypto import BlindIndex, Normal
from dbsec.crypto.errors import Unbound
from dbsec.crypto.orm import EVERY_TENANT, Unsearchable, tenant_scope

OTHER_USER = aliased(User)
REFUSED: dict[str, tuple[str, Callable[[], Any]]] = {
    "like": ("LIKE", lambda: select(User.id).where(User.phone.like("+49%"))),
    "ilike": ("ILIKE", lambda: select(User.id).where(User.email.ilike("a%"))),
    "startswith": ("startswith", lambda: select(User.id).where(User.email.startswith("a"))),
    "contains": ("contains", lambda: select(User.id).where(User.email.contains("a"))),
    "regexp": ("regexp", lambda: select(User.id).where(User.email.regexp_match("a"))),
    "less": ("<", lambda: select(User.id).where(User.phone < "x")),
    "at_least": (">=", lambda: select(User.id).where(User.email >= "x")),
    "less_turned": (">", lambda: select(User.id).where(User.phone > "x")),
    "between": ("BETWEEN", lambda: select(User.id).where(User.phone.between("a", "b"))),
    "order": ("ORDER BY", lambda: select(User.id).order_by(User.phone)),
    "order_deterministic": ("ORDER BY", lambda: select(User.id).order_by(User.email)),
    "order_descending": ("ORDER BY", lambda: select(User.id).order_by(User.phone.desc())),
    "order_by_function": ("ORDER BY", lambda: select(User.id).order_by(desc(User.phone))),
    "order_by_name": ("ORDER BY", lambda: select(User.phone).order_by("phone")),
    "order_by_name_descending": ("ORDER BY", lambda: select(User.phone).order_by(desc("phone"))),
    "order_by_label": ("ORDER BY", lambda: (label := User.phone.label("p"), select(label).order_by(label))[1]),
    "order_of_a_subquery": ("ORDER BY", lambda: select(select(User.id).order_by(User.phone).limit(1).subquery())),
    "group": ("GROUP BY", lambda: select(func.count()).group_by(User.phone)),
    "distinct": ("DISTINCT", lambda: select(User.phone).distinct()),
    "distinct_on": ("DISTINCT ON", lambda: _distinct_on(select(User.id), User.phone)),
    "union": ("UNION", lambda: union(select(User.phone), select(User.phone))),
    "max": ("max()", lambda: select(func.max(User.phone))),
    "min": ("min()", lambda: select(func.min(User.email))),
    "lower": ("lower()", lambda: select(func.lower(User.phone))),
    "lower_compared": ("lower()", lambda: select(User.id).where(func.lower(User.email) == literal("x", Text()))),
    "length": ("length()", lambda: select(func.length(User.phone))),
    "md5": ("md5()", lambda: select(func.md5(User.phone))),
    "array_agg": ("array_agg()", lambda: select(func.array_agg(User.phone))),
    "coalesce": ("coalesce()", lambda: select(func.coalesce(User.phone, literal("x", Text())))),
    "concat": ("||", lambda: select(User.phone + "x")),
    "concat_turned": ("||", lambda: select("x" + User.phone)),
    "cast": ("CAST", lambda: select(cast(User.phone, Text))),
    "case": ("CASE", lambda: select(case((User.id == 1, User.phone)))),
    "window": ("OVER", lambda: select(func.row_number().over(partition_by=User.phone))),
    "tuple": ("IN", lambda: select(User.id).where(tuple_(User.id, User.phone).in_([(1, "x")]))),
    "other_column": ("==", lambda: select(User.id).where(User.phone == User.email)),
    "clear_column": ("==", lambda: select(User.id).where(User.name == User.phone)),
    "join": ("==", lambda: select(User.id).join(OTHER_USER, OTHER_USER.phone == User.phone)),
    "in_subquery": ("IN", lambda: select(User.id).where(User.email.in_(select(User.email)))),
    "scalar_subquery": ("ScalarSelect", lambda: select(select(User.phone).scalar_subquery())),
    "delete": ("LIKE", lambda: delete(User).where(User.phone.like("x"))),
    "update": ("max()", lambda: update(User).values(name=select(func.max(User.phone)).scalar_subquery())),
    "index": ("==", lambda: select(User.id).where(User.phone_bidx == 5)),
    "index_order": ("ORDER BY", lambda: select(User.id).order_by(User.phone_bidx)),
    "no_index": ("==", lambda: select(User.id).where(User.photo == b"x")),
    "index_of_few_bits": ("!=", lambda: select(Letter.id).where(Letter.body != "x")),
}  # fmt: skip


def _distinct_on(statement: Any, column: Any) -> Any:
    """SQLAlchemy 2.1 has made a function of it."""
    made = getattr(postgresql, "distinct_on", None)
    return statement.distinct(column) if made is None else statement.ext(made(column))


@pytest.fixture
def session(orm_engine: Any) -> Iterator[Session]:
    with Session(orm_engine) as session, tenant_scope(ACME):
        yield session


@pytest.fixture
def people(session: Session) -> dict[str, int]:
    names = ("ann", "bob", "eve")
    users = [User(name=name, tenant_id=ACME, phone=f"+49 1{n}", email=f"{name}@x") for n, name in enumerate(names)]
    session.add_all(users)
    session.add(User(name="nobody", tenant_id=ACME))
    session.flush()
    return {user.name: user.id for user in users}


@pytest.mark.parametrize("question", REFUSED)
def test_what_would_be_answered_wrongly_is_refused_by_name(session: Session, question: str) -> None:
    named, ask = REFUSED[question]
    with pytest.raises(Unsearchable) as caught:
        session.execute(ask())
    assert named in str(caught.value)
    assert caught.value.hint


def test_an_order_that_a_relation_adds_is_refused_too(session: Session) -> None:

    with pytest.raises(Unsearchable, match="ORDER BY"):
        session.scalars(select(User).options(joinedload(User.by_note))).unique().all()


def test_equality_finds_values_in_each_kind_of_column(session: Session, people: dict[str, int]) -> None:
    def found(condition: Any) -> set[int]:
        return set(session.scalars(select(User.id).where(condition)))

    ann, bob, eve = people.values()
    assert found(User.phone == "+4910") == {ann}
    assert found(User.email == "ann@x") == {ann}
    assert found(User.email == "Ann@x") == set()
    assert found(User.phone.in_(["+49-10", "+49 11", "+49 99"])) == {ann, bob}
    assert found(User.email.in_(["ann@x", "eve@x"])) == {ann, eve}
    assert found(User.email.in_([])) == set()
    assert found(User.email != "ann@x") == {bob, eve}
    assert found(User.phone != "+49 10") == {bob, eve}
    assert found(User.phone.not_in(["+49 10", "+49 11"])) == {eve}
    assert found("ann@x" == User.email) == {ann}  # noqa: SIM300
    assert found((User.email == "ann@x") | (User.phone == "+49 12")) == {ann, eve}
    assert len(found(User.phone.is_(None))) == len(found(User.email == None)) == 1  # noqa: E711
    assert found(User.phone.is_not(None)) == found(User.email != None) == {ann, bob, eve}  # noqa: E711
    assert session.scalar(select(func.count(User.phone))) == 3


def test_equality_works_in_aliases_subqueries_and_with_parameters_of_the_program(
    session: Session, people: dict[str, int]
) -> None:
    ann = people["ann"]
    inner, cte = select(User).subquery(), select(User).cte()
    assert session.scalar(select(OTHER_USER.id).where(OTHER_USER.phone == "+49 10")) == ann
    assert session.scalar(select(inner.c.id).where(inner.c.phone == "+49 10")) == ann
    assert session.scalar(select(cte.c.id).where(cte.c.email == "ann@x")) == ann
    assert session.scalar(select(exists().where(User.phone == "+49 10"))) is True
    for name, column, value in (("p", User.phone, "+49 10"), ("e", User.email, "ann@x")):
        assert session.scalar(select(User.id).where(column == bindparam(name)), {name: value}) == ann
        many = select(User.id).where(column.in_(bindparam(name, expanding=True)))
        assert session.scalars(many, {name: [value]}).all() == [ann]
    twins = select(User.id).join(OTHER_USER, OTHER_USER.email == User.email)
    assert set(session.scalars(twins)) == set(people.values())


def test_a_delete_and_an_update_find_their_rows_and_the_session_knows_which(
    session: Session, people: dict[str, int]
) -> None:
    users = {user.name: user for user in session.scalars(select(User))}
    session.execute(update(User).where(User.phone == "+49 11").values(name="bert"))
    session.execute(delete(User).where(User.phone == "+49 12"))
    session.execute(delete(User).where(User.email == "ann@x"))
    assert users["bob"].name == "bert"
    assert users["eve"] not in session
    assert users["ann"] not in session


def test_another_tenants_equal_value_is_not_found(session: Session, people: dict[str, int]) -> None:
    for question in (User.phone == "+49 10", User.email == "ann@x"):
        with tenant_scope(OTHER):
            assert session.scalars(select(User.id).where(question)).all() == []
        with tenant_scope(EVERY_TENANT), pytest.raises(Unbound, match="every tenant"):
            session.scalars(select(User.id).where(question))


def test_a_statement_that_is_executed_again_asks_for_the_tenant_of_now(session: Session) -> None:
    for tenant in (ACME, OTHER):
        with tenant_scope(tenant):
            session.add(User(name=str(tenant), tenant_id=tenant, phone="+1 1"))
            session.flush()
    same = select(User.name).where(User.phone == "+1 1")
    for tenant in (ACME, OTHER, ACME):
        with tenant_scope(tenant):
            assert session.scalars(same).all() == [str(tenant)]


def test_an_index_of_few_bits_finds_others_too_and_the_value_tells(session: Session) -> None:
    """2,000 letters share 2^16 indexes: some coincide, and all that have the value are among what is found."""
    session.add_all([Letter(body=f"body {n}") for n in range(2000)])
    session.flush()
    wanted = [f"body {n}" for n in range(2000)]
    found = [letter for body in wanted for letter in session.scalars(select(Letter).where(Letter.body == body))]
    assert len(found) > len(wanted)
    assert {letter.body for letter in found} == set(wanted)


def test_equal_values_are_equal_where_the_column_is_deterministic_and_nowhere_else(session: Session) -> None:
    session.add_all([User(name="n", tenant_id=ACME, phone="+1 1", photo=b"p") for _ in range(2)])
    session.add(User(name="n", tenant_id=ACME, email="e"))
    session.flush()
    session.execute(text("ALTER TABLE shop.users DROP CONSTRAINT users_email_key"))
    session.add(User(name="n", tenant_id=ACME, email="e"))
    session.flush()
    for column, different in ((User.phone, 2), (User.photo, 2), (User.email, 1)):
        assert len({bytes(v) for v in session.scalars(select(stored(column)).where(column.is_not(None)))}) == different


def test_an_index_says_how_it_is_made() -> None:
    assert User.__table__.c.phone_bidx.type.get_col_spec() == "BIGINT"
    assert Letter.__table__.c.body_bidx.type.get_col_spec() == "BIGINT"
    assert repr(User.__table__.c.phone_bidx.type) == f"BlindIndexed('phone', {BlindIndex(63, normal=Normal.DIGITS)!r})"
