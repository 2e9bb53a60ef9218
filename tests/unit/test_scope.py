"""Whose data a thread or a task works on."""

from __future__ import annotations

import asyncio
import threading
from uuid import UUID

import pytest

from dbsec.crypto.errors import Unbound
from dbsec.crypto.scope import EVERY_TENANT, admitted, current, current_tenant, tenant_scope
from dbsec.errors import UsageError

ACME = UUID("0190C1A0-0000-7000-8000-00000000ACEE")


def test_a_scope_ends_with_its_block_and_the_inner_one_counts() -> None:
    with tenant_scope("a"):
        with tenant_scope("b"):
            assert current() == "b"
        assert current_tenant("field") == "a"
    with pytest.raises(Unbound, match="no tenant is set"):
        current()


def test_a_scope_ends_with_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), tenant_scope("a"):
        raise ZeroDivisionError
    with pytest.raises(Unbound):
        current()


@pytest.mark.parametrize(
    ("tenant", "name"), [(ACME, "0190c1a0-0000-7000-8000-00000000acee"), (7, "7"), ("Ä", "Ä"), (0, "0")]
)
def test_a_tenant_has_one_name(tenant: UUID | int | str, name: str) -> None:
    with tenant_scope(tenant):
        assert current() == name


@pytest.mark.parametrize("tenant", ["", True, None, 1.5, b"acme"])
def test_what_names_no_tenant_is_refused(tenant: object) -> None:
    with pytest.raises(UsageError), tenant_scope(tenant):  # type: ignore[arg-type]
        pass


def test_every_tenant_admits_all_and_is_no_tenant() -> None:
    with tenant_scope(EVERY_TENANT):
        assert admitted("a")
        with pytest.raises(Unbound, match="every tenant"):
            current_tenant("field")
    with tenant_scope("a"):
        assert admitted("a")
        assert not admitted("b")
    with pytest.raises(Unbound):
        admitted("a")


def test_a_thread_begins_without_a_scope_and_a_task_with_its_makers() -> None:
    seen: list[object] = []

    def in_thread() -> None:
        try:
            seen.append(current())
        except Unbound:
            seen.append(None)

    async def in_task() -> None:
        with tenant_scope("inner"):
            await asyncio.sleep(0)
        seen.append(current())

    async def main() -> None:
        await asyncio.gather(in_task(), in_task())
        await asyncio.to_thread(in_thread)

    with tenant_scope("a"):
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        asyncio.run(main())
    assert seen == [None, "a", "a", "a"]
