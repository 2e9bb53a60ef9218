"""The users of a tenant: create, read by id, look up by phone."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import idempotency
from app.problems import Problem, violated
from app.service import CurrentTenant, Here
from app.tables import User
from dbsec.clock import rfc3339

ROUTER = APIRouter(prefix="/v1/users")

E164 = r"^\+[1-9][0-9]{6,14}$"
_TEXT = r"^[^\x00-\x1f\x7f]+$"  # PostgreSQL has no NUL in text, and nobody has a line feed in a name
_MOST = 2**63 - 1


class NewUser(BaseModel):
    """What is needed to create one."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=200, pattern=_TEXT)
    email: str = Field(max_length=254, pattern=r"^[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+$")
    phone: str = Field(pattern=E164)


class UserView(BaseModel):
    """One user as its tenant sees it."""

    model_config = ConfigDict(from_attributes=True)
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
        found = session.scalar(select(User).where(User.tenant_id == tenant, User.id == user_id))
        if found is None:
            raise Problem(404, "no-such-user", "no user has this id")
        return UserView.model_validate(found)


@ROUTER.get("")
def find_users(phone: Annotated[str, Query(pattern=E164)], tenant: CurrentTenant, service: Here) -> UserList:
    """Look users up by phone, which is sent as %2B..."""
    with service.database.session() as session:
        found = session.scalars(select(User).where(User.tenant_id == tenant, User.phone == phone))
        return UserList(items=[UserView.model_validate(user) for user in found])


@ROUTER.post("", status_code=201)
def create_user(new: NewUser, tenant: CurrentTenant, service: Here, key: idempotency.Key = None) -> Response:
    """Create a user; the answer holds its id and time, and repeats nothing personal."""
    with service.database.session() as session:
        return idempotency.once(session, tenant, key, ROUTER.prefix, new, lambda: _insert(session, tenant, new))


def _insert(session: Session, tenant: UUID, new: NewUser) -> dict[str, Any]:
    user = User(tenant_id=tenant, name=new.name, email=new.email, phone=new.phone)
    session.add(user)
    try:
        session.flush()
    except IntegrityError as exc:
        if violated(exc) == "users_tenant_phone_key":
            raise Problem(409, "phone-taken", "a user with this phone exists already") from exc
        raise
    return {"id": user.id, "created_at": rfc3339(user.created_at)}
