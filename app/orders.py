"""The orders of a tenant: the newest first, a page at a time, and new ones."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import idempotency
from app.problems import Problem, violated
from app.service import CurrentTenant, Here
from app.tables import Order
from dbsec.clock import rfc3339
from dbsec.pg.keyset import MAX_CHARS, CursorError, Cursors

ROUTER = APIRouter(prefix="/v1/orders")

PAGE_CAP = 100
_SORT = "orders by created_at desc, id desc"


class NewOrder(BaseModel):
    """What is needed to place one."""

    model_config = ConfigDict(extra="forbid")
    user_id: int = Field(ge=1, le=2**63 - 1)
    amount_cents: int = Field(ge=1, le=10**12)
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    note: str | None = Field(default=None, max_length=2000, pattern=r"^[^\x00]*$")


class OrderView(BaseModel):
    """One order as its tenant sees it."""

    model_config = ConfigDict(from_attributes=True)
    id: int
    user_id: int
    amount_cents: int
    currency: str
    note: str | None
    created_at: datetime


class OrderPage(BaseModel):
    """A page, and the cursor of the next one; null on the last."""

    items: list[OrderView]
    next_cursor: str | None


@ROUTER.get("")
def list_orders(
    tenant: CurrentTenant,
    service: Here,
    cursor: Annotated[str | None, Query(max_length=MAX_CHARS)] = None,
    limit: Annotated[int, Query(ge=1)] = 50,
) -> OrderPage:
    """Read a page of at most 100, however many are asked for."""
    cursors = Cursors(service.cursor_key, (_SORT, str(tenant)))
    size = min(limit, PAGE_CAP)
    wanted = select(Order).where(Order.tenant_id == tenant)
    if cursor is not None:
        wanted = wanted.where(tuple_(Order.created_at, Order.id) < _position(cursors, cursor))
    # one more than the page tells whether there is a next one
    wanted = wanted.order_by(Order.created_at.desc(), Order.id.desc()).limit(size + 1)
    with service.database.session() as session:
        found = [OrderView.model_validate(order) for order in session.scalars(wanted)]
    page = found[:size]
    more = len(found) > size
    return OrderPage(items=page, next_cursor=cursors.encode(page[-1].created_at, page[-1].id) if more else None)


@ROUTER.post("", status_code=201)
def create_order(new: NewOrder, tenant: CurrentTenant, service: Here, key: idempotency.Key = None) -> Response:
    """Place an order for a user of this tenant."""
    with service.database.session() as session:
        write = partial(_insert, session, tenant, new)
        return idempotency.once(session, tenant, key, ROUTER.prefix, new, write, secret=service.request_key)


def _position(cursors: Cursors, cursor: str) -> tuple[datetime, int]:
    try:
        return cursors.decode(cursor, datetime, int)
    except CursorError as exc:
        raise Problem(400, "bad-cursor", "the cursor is not one of this list: start from the first page") from exc


def _insert(session: Session, tenant: UUID, new: NewOrder) -> dict[str, Any]:
    order = Order(tenant_id=tenant, **new.model_dump())
    session.add(order)
    try:
        session.flush()
    except IntegrityError as exc:
        if violated(exc) == "orders_user_fkey":
            raise Problem(422, "no-such-user", "no user has this id") from exc
        raise
    return {"id": order.id, "created_at": rfc3339(order.created_at)}
