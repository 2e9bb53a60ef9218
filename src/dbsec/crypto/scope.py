"""Whose data this thread or task works on: what an encrypted value is bound to where no row says it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Final
from uuid import UUID

from dbsec.crypto.errors import Unbound
from dbsec.errors import UsageError

Tenant = str | UUID | int


class Every(Enum):
    """The one value that stands for "whatever tenant a row is of"."""

    TENANT = "every tenant"


EVERY_TENANT: Final = Every.TENANT
Scope = str | Every
SCOPE: Final[ContextVar[Scope | None]] = ContextVar("dbsec.crypto.scope", default=None)


@contextmanager
def tenant_scope(tenant: Tenant | Every) -> Iterator[None]:
    """Work for one tenant until the end of the block; of a block in a block the inner one counts.

    A thread begins without a scope, a task of asyncio with the scope of who made it. ``EVERY_TENANT`` is for jobs: rows
    say whose they are, and what no row says is refused. Errors: ``UsageError`` for a tenant without a name.
    """
    told = tenant if tenant is EVERY_TENANT else tenant_name(tenant)
    before = SCOPE.set(told)
    try:
        yield
    finally:
        SCOPE.reset(before)


def tenant_name(tenant: object) -> str:
    """Return the one text that a tenant is bound as: of a UUID its canonical form, of an integer its digits."""
    if isinstance(tenant, bool) or not isinstance(tenant, str | UUID | int) or tenant == "":
        raise UsageError("a tenant is a text that is not empty, a UUID or an integer", hint="tenant_scope(tenant.id)")
    return str(tenant)


def current() -> Scope:
    """Return the scope. Errors: ``Unbound`` where there is none."""
    scope = SCOPE.get()
    if scope is None:
        raise Unbound("no tenant is set", hint="with tenant_scope(tenant.id): ... (EVERY_TENANT in a job)")
    return scope


def current_tenant(what: object) -> str:
    """Return the tenant of the scope. Errors: ``Unbound`` where there is none, or where it is every tenant."""
    scope = SCOPE.get()
    if scope is None or isinstance(scope, Every):
        why = "no tenant is set" if scope is None else "every tenant is in scope"
        raise Unbound(f"nothing says whose value of '{what}' is meant: {why}", hint="with tenant_scope(tenant.id): ...")
    return scope


def admitted(tenant: str) -> bool:
    """Tell whether the scope takes a row of this tenant. Errors: ``Unbound`` where there is no scope."""
    scope = current()
    return scope is EVERY_TENANT or scope == tenant
