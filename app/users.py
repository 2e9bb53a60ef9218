"""The users of a tenant: create, read by id, look up by phone or e-mail address."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import idempotency
from app.people import TAKEN, USERS, Kept, People
from app.problems import Problem, violated
from app.service import CurrentTenant, Here
from dbsec.clock import rfc3339
from dbsec.crypto.orm import tenant_scope

ROUTER = APIRouter(prefix="/v1/users")

E164 = r"^\+[1-9][0-9]{6,14}$"
_TEXT = r"^[^\x00-\x1f\x7f]+$"  # PostgreSQL has no NUL in text, and nobody has a line feed in a name
_EMAIL = r"^[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+$"
_MOST = 2**63 - 1


class NewUser(BaseModel):
    """What is needed to create one."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=200, pattern=_TEXT)
    email: str = Field(max_length=254, pattern=_EMAIL)
    phone: str = Field(pattern=E164)


class UserView(BaseModel):
    """One user as its tenant sees it."""

    id: int
    name: str
    email: str
    phone: str
    created_at: datetime


class UserList(BaseModel):
    """What a look-up found."""

    items: list[UserView]


@ROUTER.get("/{user_id}")
def read_user(user_id: Annotated[int, Path(ge=1, le=_MOST)], tenant: CurrentTenant, service: Here) -> UserView:
    """Read one user; another tenant's is as unknown as one that never was."""
    with service.database.session() as session:
        found = _found(session, service.people, tenant, USERS.c.id == user_id)
        if not found:
            raise Problem(404, "no-such-user", "no user has this id")
        return found[0]


@ROUTER.get("")
def find_users(
    tenant: CurrentTenant,
    service: Here,
    phone: Annotated[str | None, Query(pattern=E164)] = None,
    email: Annotated[str | None, Query(max_length=254, pattern=_EMAIL)] = None,
) -> UserList:
    """Look users up by phone, which is sent as %2B..., or by e-mail address; by one of the two."""
    people = service.people
    asked: list[tuple[Kept, str]] = [(k, v) for k, v in ((people.phone, phone), (people.email, email)) if v is not None]
    if len(asked) != 1:
        raise Problem(422, "invalid-request", "a look-up is by phone or by email")
    ((kept, value),) = asked
    with service.database.session() as session:
        found = _found(session, people, tenant, kept.same(value))
    # an index that was altered in the database leads to somebody else, whose own value says so
    return UserList(items=[user for user in found if value in (user.phone, user.email)])


@ROUTER.post("", status_code=201)
def create_user(new: NewUser, tenant: CurrentTenant, service: Here, key: idempotency.Key = None) -> Response:
    """Create a user; the answer holds its id and time, and repeats nothing personal."""
    with service.database.session() as session:
        write = partial(_insert, session, service.people, tenant, new)
        return idempotency.once(session, tenant, key, ROUTER.prefix, new, write, secret=service.request_key)


def _found(session: Session, people: People, tenant: UUID, which: ColumnElement[bool]) -> list[UserView]:
    phone, email = people.phone.read.label("phone"), people.email.read.label("email")
    seen = (USERS.c.id, USERS.c.name, USERS.c.created_at, phone, email)
    with tenant_scope(str(tenant)):
        rows = session.execute(select(*seen).where(USERS.c.tenant_id == tenant, which)).all()
    return [UserView(id=r.id, name=r.name, email=r.email, phone=r.phone, created_at=r.created_at) for r in rows]


def _insert(session: Session, people: People, tenant: UUID, new: NewUser) -> dict[str, Any]:
    personal = {**people.phone.stored(new.phone), **people.email.stored(new.email)}
    values = {"tenant_id": tenant, "name": new.name, **personal}
    try:
        made = session.execute(insert(USERS).returning(USERS.c.id, USERS.c.created_at), values).one()
    except IntegrityError as exc:
        if violated(exc) in TAKEN:
            raise Problem(409, "phone-taken", "a user with this phone exists already") from exc
        raise
    return {"id": made.id, "created_at": rfc3339(made.created_at)}
