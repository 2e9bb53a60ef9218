"""Writes that cannot be bound to their row never reach the server: not in clear, and not under a wrong key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    MetaData,
    Table,
    Uuid,
    bindparam,
    create_engine,
    event,
    func,
    insert,
    null,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, configure_mappers, mapped_column
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.schema import Identity
from tests.orm_bed import ACME, OTHER, Base, Letter, Order, User, stored
from tests.orm_paths import USERS

from dbsec.crypto.errors import ModeRefused, Unbound
from dbsec.crypto.orm import (
    EVERY_TENANT,
    Encrypted,
    Field,
    UnboundParameter,
    attach,
    declared,
    encrypted_column,
    tenant_scope,
)
from dbsec.errors import UsageError

CANARY = "+49 30 canary"
_EXCLUDED = upsert(USERS).excluded


def _upsert(*, index: Any = "id", **changes: Any) -> Any:
    set_ = {"phone": _EXCLUDED.phone, "phone_bidx": _EXCLUDED.phone_bidx, **changes.pop("set_", {})}
    set_ = {name: value for name, value in set_.items() if value is not Ellipsis}
    rows = upsert(USERS).values(id=7, name="n", tenant_id=ACME, phone=CANARY)
    return rows.on_conflict_do_update(index_elements=[index], set_=set_, **changes)


SAME_TENANT = {"where": USERS.c.tenant_id == _EXCLUDED.tenant_id}
REFUSED: dict[str, Callable[[], Any]] = {
    "update without an id": lambda: update(User).values(phone=CANARY),
    "update by another column": lambda: update(User).where(User.name == "n").values(phone=CANARY),
    "update by many ids": lambda: update(User).where(User.id.in_([1, 2])).values(phone=CANARY),
    "update by id or name": lambda: update(User).where((User.id == 1) | (User.name == "n")).values(phone=CANARY),
    "update by an id above": lambda: update(User).where(User.id > 1).values(phone=CANARY),
    "update from another column": lambda: update(User).where(User.id == 1).values(phone=User.name),
    "update by a function": lambda: update(User).where(User.id == 1).values(phone=func.lower(CANARY)),
    "update of the id alone": lambda: update(User).where(User.id == 1).values(id=2),
    "update of the tenant alone": lambda: update(User).where(User.id == 1).values(tenant_id=OTHER),
    "update of the index": lambda: update(User).where(User.id == 1).values(phone_bidx=5),
    "insert from select": lambda: insert(User).from_select(["phone"], select(User.phone)),
    "insert of a function": lambda: insert(User).values(name="n", tenant_id=ACME, phone=func.upper(CANARY)),
    "insert under an id of the server": lambda: insert(User).values(id=func.nextval("x"), phone=CANARY),
    "insert of an index": lambda: insert(User).values(name="n", tenant_id=ACME, phone_bidx=5),
    "insert of another tenant's row": lambda: insert(User).values(name="n", tenant_id=OTHER, phone=CANARY),
    "insert in a CTE": lambda: select(insert(User).values(id=1, phone=CANARY).returning(User.id).cte()),
    "upsert of another column's conflict": lambda: _upsert(index="email", **SAME_TENANT),
    "upsert of any tenant's row": lambda: _upsert(),
    "upsert of a literal": lambda: _upsert(set_={"phone": CANARY}, **SAME_TENANT),
    "upsert without the index": lambda: _upsert(set_={"phone_bidx": ...}, **SAME_TENANT),
    "upsert of the id": lambda: _upsert(set_={"id": 8}, **SAME_TENANT),
    "upsert of another column": lambda: _upsert(set_={"phone": _EXCLUDED.email}, **SAME_TENANT),
}  # fmt: skip


@pytest.fixture
def sent(orm_engine: Any) -> Iterator[list[str]]:
    """All that goes to the server, statement and parameters."""
    seen: list[str] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        seen.append(f"{statement} {parameters}")

    event.listen(orm_engine, "before_cursor_execute", note)
    yield seen
    event.remove(orm_engine, "before_cursor_execute", note)


@pytest.fixture
def session(orm_engine: Any) -> Iterator[Session]:
    with Session(orm_engine) as session, tenant_scope(ACME):
        yield session


@pytest.mark.parametrize("what", REFUSED)
def test_a_write_that_cannot_be_bound_is_refused_before_the_server_sees_it(
    session: Session, sent: list[str], what: str
) -> None:
    with pytest.raises(Unbound) as caught:
        session.execute(REFUSED[what]())
    assert caught.value.hint
    assert "canary" not in str(caught.value) + repr(caught.value)
    assert not any("canary" in statement for statement in sent)
    assert session.connection().exec_driver_sql("SELECT count(*) FROM shop.users").scalar_one() == 0


def test_an_index_is_filled_by_us_alone(session: Session) -> None:
    with pytest.raises(UnboundParameter, match="'phone_bidx' is filled from 'phone'"):
        session.execute(insert(User).values(name="n", tenant_id=ACME, phone_bidx=5))


def test_what_is_read_past_the_column_raises_and_is_not_handed_out(session: Session) -> None:
    session.add(User(name="n", tenant_id=ACME, phone=CANARY))
    session.flush()
    session.expunge_all()
    past = (
        select(User).from_statement(text("SELECT * FROM shop.users")),
        text("SELECT phone FROM shop.users").columns(User.phone),
        select(select(User.phone).subquery().c.phone),
        select(select(User.id, User.phone).cte().c.phone),
    )
    for statement in past:
        with pytest.raises(UnboundParameter):
            session.execute(statement).all()


def test_no_parameter_is_printed_where_a_value_slips_by(session: Session) -> None:
    """SQLAlchemy wraps what is raised while it makes parameters, and prints them: not what we raise."""
    typed = bindparam("p", type_=User.__table__.c.phone.type)
    statement = text("INSERT INTO shop.users (name, phone) VALUES ('n', :p)").bindparams(typed)
    with pytest.raises(UnboundParameter) as caught:
        session.execute(statement, {"p": CANARY})
    assert "canary" not in str(caught.value)


def test_nothing_of_a_value_is_in_log_and_errors(
    orm_engine: Any, orm_bench: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "sqlalchemy.engine")
    engine = create_engine("postgresql+psycopg://", creator=orm_engine.pool._creator)  # hook: ok the same server
    attach(engine, orm_bench.envelope)
    row = {"name": "n", "tenant_id": ACME, "phone": CANARY, "email": "canary@x"}
    with Session(engine) as session, tenant_scope(ACME):
        session.add(User(**row))
        session.flush()
        assert session.scalars(select(User.id).where(User.email == "canary@x", User.phone == CANARY)).all()
        with pytest.raises(IntegrityError) as caught:
            session.execute(insert(User), [row])
    engine.dispose()
    assert "users_email_key" in str(caught.value)
    assert caplog.text.count("INSERT INTO shop.users") > 1
    assert "canary" not in str(caught.value) + caplog.text


def test_what_the_program_gave_is_not_changed(session: Session) -> None:
    rows = [{"name": "n", "tenant_id": ACME, "phone": CANARY} for _ in range(2)]
    statement = insert(User).values(name="n", tenant_id=ACME, phone=CANARY)
    session.execute(insert(User), rows)
    session.connection().execute(insert(USERS), rows)
    for _ in range(2):
        session.execute(statement)
    assert rows == [{"name": "n", "tenant_id": ACME, "phone": CANARY}] * 2
    assert session.scalars(select(User.phone)).all() == [CANARY] * 6


def test_a_row_must_say_whose_it_is_or_the_scope_must(orm_engine: Any) -> None:
    with Session(orm_engine) as session:
        with pytest.raises(Unbound, match="no tenant is set"):
            session.execute(insert(User).values(name="n", phone=CANARY))
        with tenant_scope(EVERY_TENANT), pytest.raises(Unbound, match="every tenant"):
            session.execute(insert(User).values(name="n", phone=CANARY))
        session.execute(insert(User).values(id=1, name="n", tenant_id=ACME, phone=CANARY))
        with pytest.raises(Unbound, match="no tenant is set"):
            session.scalars(select(User.phone)).all()
        with pytest.raises(Unbound, match="no tenant is set"):
            session.execute(update(User).where(User.id == 1).values(phone=CANARY))
        session.execute(update(User).where(User.id == 1, User.tenant_id == ACME).values(phone="+49 2"))
        with tenant_scope(ACME):
            assert session.scalars(select(User.phone)).all() == ["+49 2"]


def test_an_insert_in_a_scope_gets_its_tenant(session: Session) -> None:
    session.execute(insert(User), [{"name": "n", "phone": CANARY}] * 2)
    session.add(User(name="n", phone=CANARY))
    session.flush()
    assert session.scalars(select(User.tenant_id)).all() == [ACME] * 3


def test_an_update_in_the_scope_of_another_tenant_reaches_no_row(session: Session) -> None:
    user = User(name="n", tenant_id=ACME, phone=CANARY)
    session.add(user)
    session.flush()
    with tenant_scope(OTHER):
        assert session.execute(update(User).where(User.id == user.id).values(phone="x")).rowcount == 0
        user.phone = "theirs"
        with pytest.raises(StaleDataError):
            session.flush()
    session.rollback()


def test_a_key_that_changes_takes_its_values_with_it(session: Session) -> None:
    session.add(Order(tenant_id=ACME, number=1, note="note"))
    session.flush()
    order = session.scalars(select(Order)).one()
    order.number = 2
    with pytest.raises(UnboundParameter, match="'number'"):
        session.flush()
    session.rollback()
    session.add(Order(tenant_id=ACME, number=1, note="note"))
    session.flush()
    order = session.scalars(select(Order)).one()
    order.number, order.note = 2, "note of 2"
    session.flush()
    session.expunge_all()
    assert session.scalars(select(Order.note)).all() == ["note of 2"]


def test_null_needs_no_row(session: Session) -> None:
    session.add(User(name="n", tenant_id=ACME, phone=CANARY, email="e"))
    session.flush()
    session.execute(update(User).where(User.name == "n").values(phone=None, email=null()))
    assert session.execute(select(stored(User.phone), User.phone_bidx, stored(User.email))).one() == (None, None, None)


def test_a_value_of_another_type_is_refused_without_being_told(session: Session) -> None:
    for values in ({"phone": 4930_2555}, {"phone": b"4930"}, {"photo": "4930"}, {"email": "4930\ud800"}):
        with pytest.raises(UsageError) as caught:
            session.execute(insert(User).values(name="n", tenant_id=ACME, **values))
        assert "4930" not in str(caught.value) + repr(
            caught.value.__context__ if not caught.value.__suppress_context__ else ""
        )


def test_an_engine_without_an_envelope_neither_writes_nor_reads(orm_engine: Any, session: Session) -> None:
    session.add(User(id=1, name="n", tenant_id=ACME, phone=CANARY))
    session.commit()
    bare = create_engine("postgresql+psycopg://", creator=orm_engine.pool._creator)  # hook: ok the same server
    with Session(bare) as other:
        for act in (
            lambda: other.execute(insert(User), [{"id": 2, "name": "n", "tenant_id": ACME, "phone": CANARY}]),
            lambda: other.execute(update(User).where(User.id == 1).values(phone=CANARY)),
            lambda: other.scalars(select(User)).all(),
            lambda: other.scalars(select(User.phone)).all(),
            lambda: other.scalars(select(User.id).where(User.phone == CANARY)).all(),
        ):
            with pytest.raises(UnboundParameter) as caught:
                act()
            assert "canary" not in str(caught.value)
            other.rollback()
        assert other.scalars(select(User.id)).all() == [1]
    bare.dispose()


def test_an_engine_with_other_options_has_the_same_envelope(orm_engine: Any) -> None:
    options = orm_engine.execution_options(logging_token="other")
    with Session(options) as session, tenant_scope(ACME):
        session.add(User(name="n", phone=CANARY))
        session.flush()
        assert session.scalars(select(User.phone)).all() == [CANARY]
        assert session.scalars(select(stored(User.phone))).one()[:2] == b"\xd5\x11"


def test_an_engine_has_one_envelope(orm_engine: Any, orm_bench: Any) -> None:
    attach(orm_engine, orm_bench.envelope)
    with pytest.raises(UsageError, match="envelope already"):
        attach(orm_engine, orm_bench.other())
    with pytest.raises(UsageError, match="sqlite"):
        attach(create_engine("sqlite://"), orm_bench.envelope)


def test_a_key_that_the_server_alone_makes_is_refused_when_the_class_is_mapped() -> None:
    class Apart(DeclarativeBase):
        pass

    class Always(Apart):
        __tablename__ = "always"
        id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
        value: Mapped[str] = encrypted_column(Field("t", "value"))

    with pytest.raises(ModeRefused, match="GENERATED ALWAYS") as caught:
        configure_mappers()
    assert "ALTER TABLE always ALTER COLUMN id SET GENERATED BY DEFAULT" in caught.value.hint
    Apart.registry.dispose()


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"a": Encrypted(Field("t", "a")), "b": Encrypted(Field("t", "a"))}, "each other's values"),
        ({"a": Encrypted(Field("t", "a"), tenant="nobody")}, "'nobody'"),
        ({"a": Encrypted(Field("t", "a"), row=("other",))}, "'other'"),
    ],
)
def test_a_declaration_that_cannot_hold_is_refused(columns: dict[str, Any], why: str) -> None:
    keyed = [Column("id", BigInteger, primary_key=True), *(Column(name, type_) for name, type_ in columns.items())]
    with pytest.raises(ModeRefused, match=why):
        declared(Table("t", MetaData(), *keyed))


def test_one_field_in_two_tables_of_an_engine_is_refused(orm_engine: Any) -> None:
    twin = Table("twin", MetaData(), Column("id", Uuid, primary_key=True), Column("v", Letter.__table__.c.body.type))
    with Session(orm_engine) as session:
        session.add(Letter(body="b"))
        session.flush()
        with pytest.raises(ModeRefused, match=r"shop\.letters\.body"):
            session.execute(insert(twin), {"id": uuid4(), "v": "x"})


def test_ids_are_fetched_once_for_a_batch(session: Session, sent: list[str]) -> None:
    session.add_all([User(name="n", tenant_id=ACME, phone=CANARY) for _ in range(50)])
    session.flush()
    assert len([statement for statement in sent if "nextval" in statement]) == 1
    assert len([statement for statement in sent if "INSERT" in statement]) == 1
    assert Base.metadata.tables["shop.users"] is USERS
