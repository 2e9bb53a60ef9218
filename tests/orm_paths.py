"""Every way in which a program writes an encrypted column through SQLAlchemy, and every way in which it reads one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import bindparam, insert, select, union_all, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session, aliased, joinedload, load_only, selectinload, subqueryload
from tests.orm_bed import ACME, Order, User

USERS = User.__table__
Values = dict[str, Any]


def _new(values: Values) -> Values:
    return {"name": "n", "tenant_id": ACME, **values}


def _old(session: Session) -> int:
    """Make a row that an update then changes, under values that no test looks for."""
    user = User(name="before", tenant_id=ACME, phone="+1 000", email=None, photo=b"before")
    session.add(user)
    session.flush()
    session.expunge_all()
    return user.id


def flush(session: Session, values: Values) -> int:
    user = User(**_new(values))
    session.add(user)
    session.flush()
    return user.id


def add_all(session: Session, values: Values) -> int:
    users = [User(**_new({**values, "email": email})) for email in (None, values.get("email"), None)]
    session.add_all(users)
    session.flush()
    return users[1].id


def merge(session: Session, values: Values) -> int:
    merged = session.merge(User(id=_old(session), **values))
    session.flush()
    return merged.id


def orm_bulk_insert(session: Session, values: Values) -> int:
    before = _old(session)
    session.execute(insert(User), [_new({**values, "email": None}), _new(values)])
    return before + 2


def orm_bulk_insert_returning(session: Session, values: Values) -> int:
    rows = [_new({**values, "email": None}), _new(values)]
    found = session.execute(insert(User).returning(User.id, User.phone, sort_by_parameter_order=True), rows).all()
    assert [phone for _, phone in found] == [values["phone"]] * 2
    return int(found[1].id)


def orm_insert_values(session: Session, values: Values) -> int:
    user = session.scalars(insert(User).values(**_new(values)).returning(User)).one()
    assert user.phone == values["phone"]
    return user.id


def orm_insert_many_values(session: Session, values: Values) -> int:
    rows = [_new({**values, "email": None}), _new(values)]
    return session.scalars(insert(User).values(rows).returning(User.id)).all()[1]


def core_insert(session: Session, values: Values) -> int:
    return int(session.execute(insert(USERS), _new(values)).inserted_primary_key[0])


def core_insert_many(session: Session, values: Values) -> int:
    before = _old(session)
    session.connection().execute(insert(USERS), [_new({**values, "email": None}), _new(values)])
    return before + 2


def core_insert_by_column(session: Session, values: Values) -> int:
    told = {USERS.c[name]: value for name, value in _new(values).items()}
    return int(session.connection().execute(insert(USERS).values(told).returning(USERS.c.id)).scalar_one())


def core_insert_named(session: Session, values: Values) -> int:
    statement = insert(USERS).values(name="n", **{name: bindparam(f"b_{name}") for name in values})
    made = session.connection().execute(statement, {f"b_{name}": value for name, value in values.items()})
    return int(made.inserted_primary_key[0])


def bulk_save(session: Session, values: Values) -> int:
    before = _old(session)
    session.bulk_save_objects([User(**_new(values))])
    return before + 1


def upsert_new(session: Session, values: Values) -> int:
    statement = upsert(User).values(**_new(values)).on_conflict_do_nothing().returning(User.id)
    return int(session.execute(statement).scalar_one())


def upsert_old(session: Session, values: Values) -> int:
    number = _old(session)
    statement = upsert(USERS)
    statement = statement.on_conflict_do_update(
        index_elements=[USERS.c.id],
        set_={name: statement.excluded[name] for name in (*values, "phone_bidx")},
        where=USERS.c.tenant_id == statement.excluded.tenant_id,
    )
    session.execute(statement, [_new({"id": number, **values})])
    return number


def flush_update(session: Session, values: Values) -> int:
    user = session.get_one(User, _old(session))
    for name, value in values.items():
        setattr(user, name, value)
    session.flush()
    return user.id


def orm_update(session: Session, values: Values) -> int:
    number = _old(session)
    session.execute(update(User).where(User.id == number, User.name == "before").values(**values))
    return number


def orm_update_by_key(session: Session, values: Values) -> int:
    numbers = [_old(session), _old(session)]
    rows = [{"id": number, **values, "email": email} for number, email in zip(numbers, [None, values["email"]])]  # noqa: B905
    session.execute(update(User), rows)
    return numbers[1]


def core_update(session: Session, values: Values) -> int:
    number = _old(session)
    session.connection().execute(update(USERS).where(USERS.c.id == number), values)
    return number


def core_update_many(session: Session, values: Values) -> int:
    numbers = [_old(session), _old(session)]
    rows = [{"which": number, **values, "email": email} for number, email in zip(numbers, [None, values["email"]])]  # noqa: B905
    session.connection().execute(update(USERS).where(USERS.c.id == bindparam("which")), rows)
    return numbers[1]


def core_update_returning(session: Session, values: Values) -> int:
    number = _old(session)
    statement = update(USERS).where(USERS.c.id == number).values(**values).returning(USERS.c.phone)
    assert session.connection().execute(statement).scalar_one() == values["phone"]
    return number


WRITES: dict[str, Callable[[Session, Values], int]] = {
    act.__name__: act
    for act in (
        flush,
        add_all,
        merge,
        orm_bulk_insert,
        orm_bulk_insert_returning,
        orm_insert_values,
        orm_insert_many_values,
        core_insert,
        core_insert_many,
        core_insert_by_column,
        core_insert_named,
        bulk_save,
        upsert_new,
        upsert_old,
        flush_update,
        orm_update,
        orm_update_by_key,
        core_update,
        core_update_many,
        core_update_returning,
    )
}


def _statements() -> dict[str, Callable[[int], Any]]:
    """Return queries whose first column is the phone of a user, or the user."""
    other, left, right = aliased(User), aliased(User), aliased(User)
    inner = select(User).subquery()
    renamed = select(User.phone.label("p"), User.tenant_id.label("t"), User.id.label("i")).subquery()
    labels = [column.label(f"r_{column.key}") for column in (right.id, right.tenant_id, right.phone)]
    twice = select(left.id, left.tenant_id, left.phone, *labels).join(right, right.id == left.id).subquery()
    cte = select(User).where(User.id > 0).cte()
    nested = select(select(inner).subquery()).subquery()
    union = union_all(select(User).where(User.id < 0), select(User).where(User.id > 0)).subquery()
    of_cte, of_union = aliased(User, cte), aliased(User, union)
    users = select(User)
    return {
        "entity": lambda n: users.where(User.id == n),
        "load_only": lambda n: users.options(load_only(User.phone)).where(User.id == n),
        "column": lambda n: select(User.phone).where(User.id == n),
        "core": lambda n: select(USERS.c.phone).where(USERS.c.id == n),
        "label": lambda n: select(User.phone.label("x")).where(User.id == n),
        "alias": lambda n: select(other.phone).where(other.id == n),
        "join": lambda n: select(other.phone, User.phone).join(User, other.id == User.id).where(User.id == n),
        "outer_join": lambda n: select(User.phone, Order.note).outerjoin(Order).where(User.id == n),
        "subquery": lambda n: select(inner.c.phone).where(inner.c.id == n),
        "renamed": lambda n: select(renamed.c.p).where(renamed.c.i == n),
        "twice": lambda n: select(twice.c.r_phone, twice.c.phone).where(twice.c.id == n),
        "nested": lambda n: select(nested.c.phone).where(nested.c.id == n),
        "cte": lambda n: select(cte.c.phone).where(cte.c.id == n),
        "entity_of_cte": lambda n: select(of_cte).where(of_cte.id == n),
        "union": lambda n: select(union.c.phone).where(union.c.id == n),
        "entity_of_union": lambda n: select(of_union).where(of_union.id == n),
        "outermost_union": lambda n: union_all(*[select(User.phone).where(User.id == one) for one in (-n, n)]),
        "distinct": lambda n: users.where(User.id == n).distinct(),
        "joinedload": lambda n: users.options(joinedload(User.orders)).where(User.id == n).limit(1),
        "selectinload": lambda n: users.options(selectinload(User.orders)).where(User.id == n),
        "subqueryload": lambda n: users.options(subqueryload(User.orders)).where(User.id == n),
        "update_returning": lambda n: update(User).where(User.id == n).values(name="r").returning(User.phone),
    }


def _reading(statement: Callable[[int], Any]) -> Callable[[Session, int], Any]:
    def read(session: Session, number: int) -> Any:
        found = session.execute(statement(number)).unique().one()[0]
        return found if found is None or isinstance(found, str) else found.phone

    return read


def _got(session: Session, number: int) -> Any:
    return session.get_one(User, number).phone


def _refreshed(session: Session, number: int) -> Any:
    user = session.scalars(select(User).options(load_only(User.name)).where(User.id == number)).one()
    session.refresh(user, ["phone"])
    return user.phone


def _mapped(session: Session, number: int) -> Any:
    return session.execute(select(User.phone).where(User.id == number)).mappings().one()["phone"]


def _on_a_connection(session: Session, number: int) -> Any:
    return session.connection().execute(select(USERS).where(USERS.c.id == number)).one().phone


def _scrolled(session: Session, number: int) -> Any:
    rows = select(User.phone).where(User.id == number).execution_options(yield_per=1)
    with session.execute(rows) as found:
        return found.scalar_one()


READS: dict[str, Callable[[Session, int], Any]] = {
    **{name: _reading(statement) for name, statement in _statements().items()},
    **{act.__name__.strip("_"): act for act in (_got, _refreshed, _mapped, _on_a_connection, _scrolled)},
}
