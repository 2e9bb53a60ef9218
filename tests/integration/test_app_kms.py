"""The reference service while its KMS is away: at its start, in the middle of a request, and when it is back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from tests.openbao import OpenBao

from dbsec.kms import open_admin
from dbsec.pg import connect, own

ENCRYPTED_ALONE = """
ALTER TABLE app.users ADD COLUMN phone_enc bytea, ADD COLUMN phone_bidx bytea, ALTER COLUMN phone DROP NOT NULL,
  ADD COLUMN email_enc bytea, ALTER COLUMN email DROP NOT NULL;
CREATE UNIQUE INDEX users_tenant_phone_bidx_key ON app.users (tenant_id, phone_bidx);
"""


@pytest.fixture
def bao(openbao: OpenBao) -> Iterator[OpenBao]:
    """The real server, running again after the test."""
    yield openbao
    openbao.resume()


@pytest.fixture
def here(database: Any, deploy: Callable[[Any], Any]) -> Iterator[Any]:
    made = deploy(database)
    with connect(made.conninfo) as admin:
        own.install(admin)
        admin.execute(ENCRYPTED_ALONE)
    yield made
    made.service.stop()


@pytest.fixture
def start(here: Any, bao: OpenBao, start_service: Callable[..., Any]) -> Iterator[Callable[[], Any]]:
    """Start the release that knows the encrypted columns alone; each tenant has a KEK in the server."""
    told = {"APP_RELEASE": "teal", "APP_ENCRYPTED": "phone,email", "APP_KMS": bao.uri("{tenant}")}
    for tenant in (here.big, here.other):
        open_admin(told["APP_KMS"], environ={}, tenant=str(tenant.id)).create()
    with ExitStack() as started:

        def act() -> Any:
            service = start_service(here.conninfo, **told)
            started.callback(service.stop)
            return service

        yield act


def _written(here: Any) -> Any:
    return here.rows("SELECT count(*), max(id), (SELECT count(*) FROM dbsec.keyring) FROM app.users")


def _unavailable(reply: httpx.Response) -> None:
    assert reply.status_code == 503, reply.text
    assert reply.json()["type"].endswith("keys-unavailable")
    assert reply.headers["Retry-After"] == "1"


def test_a_kms_that_is_away_costs_answers_and_no_data(here: Any, bao: OpenBao, start: Callable[[], Any]) -> None:
    # Each refused call takes its 5 seconds and some tries; two in a row would open the circuit breaker.
    first, user, new = start(), here.user(), here.user()
    made = first.client(here.big).post("/v1/users", json=user)
    assert made.status_code == 201, made.text
    first.stop()
    path = f"/v1/users/{made.json()['id']}"

    bao.pause()  # at the start
    service = start()
    assert service.health()["status"] == "ok"
    big, other = service.client(here.big), service.client(here.other)
    _unavailable(big.get(path))
    bao.resume()
    shown = big.get(path)
    assert (shown.status_code, shown.json()["phone"]) == (200, user["phone"])

    before = _written(here)
    bao.pause()  # in the middle: a key that is held serves on, one that is not cannot be had
    assert big.get(path).status_code == 200
    _unavailable(other.post("/v1/users", json=new))
    assert _written(here) == before
    bao.resume()
    last = other.post("/v1/users", json=new)
    assert last.status_code == 201, last.text

    assert here.rows("SELECT phone, email FROM app.users WHERE id = %s", last.json()["id"]) == [(None, None)]
    token = bao.token_file.read_text().strip()
    assert [value for value in (user["phone"], new["phone"], token) if value in service.log] == []
