"""What the reference service writes once, and what it refuses without showing anything."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from app.limits import TokenBuckets
from app.problems import Problem

from dbsec.pg import connect

PHONE = "+4915112345678"


# --- writes


def test_a_repeated_write_gets_the_first_answer_and_writes_nothing(deployed: Any) -> None:
    new, key = deployed.user(), {"Idempotency-Key": secrets.token_hex(8)}
    first, again = (deployed.as_big.post("/v1/users", json=new, headers=key) for _ in range(2))
    assert (first.status_code, first.content) == (201, again.content)
    assert (first.headers.get("Idempotency-Replayed"), again.headers["Idempotency-Replayed"]) == (None, "true")
    assert deployed.rows("SELECT count(*) FROM app.users WHERE phone = %s", new["phone"]) == [(1,)]


def test_a_key_belongs_to_one_request_and_one_tenant(deployed: Any) -> None:
    key = {"Idempotency-Key": secrets.token_hex(8)}
    order = deployed.order(deployed.big)
    assert deployed.as_big.post("/v1/orders", json=order, headers=key).status_code == 201
    assert deployed.as_big.post("/v1/orders", json={**order, "amount_cents": 2}, headers=key).status_code == 422
    assert deployed.as_big.post("/v1/users", json=deployed.user(), headers=key).status_code == 422
    theirs = deployed.as_other.post("/v1/orders", json=deployed.order(deployed.other), headers=key)
    assert (theirs.status_code, "Idempotency-Replayed" in theirs.headers) == (201, False)


def test_concurrent_duplicates_write_once(deployed: Any) -> None:
    new, key = deployed.user(), {"Idempotency-Key": secrets.token_hex(8)}
    together = threading.Barrier(12)

    def send(_: int) -> httpx.Response:
        together.wait()
        reply: httpx.Response = deployed.as_big.post("/v1/users", json=new, headers=key)
        return reply

    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(send, range(12)))
    assert {(reply.status_code, reply.content) for reply in replies} == {(201, replies[0].content)}
    assert sum("Idempotency-Replayed" in reply.headers for reply in replies) == 11


def test_a_write_that_failed_leaves_its_key_free(deployed: Any) -> None:
    key = {"Idempotency-Key": secrets.token_hex(8)}
    taken = deployed.as_big.post("/v1/users", json=deployed.user(phone=deployed.big.phones[0]), headers=key)
    assert (taken.status_code, taken.json()["type"]) == (409, "urn:dbsec:app:problem:phone-taken")
    assert deployed.as_big.post("/v1/users", json=deployed.user(), headers=key).status_code == 201


def test_stored_answers_hold_nothing_personal_and_go_after_a_day(deployed: Any) -> None:
    client = deployed.service.client(deployed.data.tenants[3])
    new = deployed.user()
    for n in range(3):
        body = {**new, "phone": f"+8811{secrets.randbelow(10**8):08}"}
        assert client.post("/v1/users", json=body, headers={"Idempotency-Key": f"old-{n}"}).status_code == 201
    stored = "".join(row[0] for row in deployed.rows("SELECT response FROM app.idempotency_keys"))
    assert not any(text in stored for text in ("+88", "zoe@", "Zo"))
    with connect(deployed.conninfo) as admin:
        admin.execute(
            "UPDATE app.idempotency_keys SET created_at = now() - interval '25 h' WHERE starts_with(key, 'old-')"
        )
    assert client.post("/v1/users", json=deployed.user(), headers={"Idempotency-Key": "new"}).status_code == 201
    assert deployed.rows("SELECT key FROM app.idempotency_keys WHERE starts_with(key, 'old-')") == []


# --- refusals


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"name": "a\\u0000b", "email": "a@b", "phone": "+4915112345678"}', 422),
        (b'{"name": "a\\ud800b", "email": "a@b", "phone": "+4915112345678"}', 422),
        (b'{"name": "x", "email": "a@b", "phone": "0151 1234"}', 422),
        (b'{"name": "x", "email": "a@b", "phone": "+4915112345678", "tenant_id": "x"}', 422),
        (b'{"name": NaN, "email": "a@b", "phone": "+4915112345678"}', 422),
        (b"{", 422),
        (b"[" * 60_000, 400),
        (b"x" * 65_537, 413),
    ],
)
def test_a_bad_body_is_a_problem_that_repeats_nothing(deployed: Any, body: bytes, status: int) -> None:
    reply = deployed.as_big.post("/v1/users", content=body, headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.headers["Content-Type"]) == (status, "application/problem+json")
    assert reply.json()["status"] == status
    assert PHONE not in reply.text


def test_a_long_body_of_unknown_length_is_cut_off(deployed: Any) -> None:
    chunks = (b"x" * 1024 for _ in range(100))
    reply = deployed.as_big.post("/v1/users", content=chunks, headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.headers["Content-Type"]) == (413, "application/problem+json")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("DELETE", "/v1/users", 405),
        ("GET", "/v1/users/abc", 422),
        ("GET", f"/v1/users/{2**63}", 422),
        ("GET", "/v1/users?phone=%2B49%00151", 422),
    ],
)
def test_other_errors_are_problems_too(deployed: Any, method: str, path: str, status: int) -> None:
    reply = deployed.as_big.request(method, path)
    assert (reply.status_code, reply.headers["Content-Type"]) == (status, "application/problem+json")


def test_an_error_of_the_database_shows_neither_sql_nor_rows(deployed: Any) -> None:
    with connect(deployed.conninfo) as admin:
        admin.execute("ALTER TABLE app.users ADD CONSTRAINT no_emus CHECK (name <> 'Emu')")
        reply = deployed.as_big.post("/v1/users", json=deployed.user(name="Emu", phone=PHONE))
        admin.execute("ALTER TABLE app.users DROP CONSTRAINT no_emus")
    assert (reply.status_code, reply.json()["detail"]) == (500, "this is our fault, and it is in our log")
    assert "SQLSTATE 23514" in deployed.service.log
    for shown in (reply.text, deployed.service.log):
        assert not any(text in shown for text in (PHONE, "INSERT", "no_emus", "Traceback"))


def test_the_rate_limit_is_a_tenants_own_and_says_when_to_come_back(deployed: Any, start_service: Any) -> None:
    service = start_service(deployed.conninfo, APP_RATE_PER_S="2")
    client = service.client(deployed.big)
    replies = [client.get("/v1/orders?limit=1") for _ in range(12)]
    assert [reply.status_code for reply in replies[:4]] == [200] * 4
    assert replies[-1].status_code == 429
    assert 1 <= int(replies[-1].headers["Retry-After"]) <= 2
    assert service.client(deployed.other).get("/v1/orders?limit=1").status_code == 200
    service.stop()


def test_a_bucket_fills_with_its_rate_and_never_beyond_two_seconds() -> None:
    class Hand:
        at = 0.0

        def now(self) -> datetime:
            return datetime.now(UTC)

        def monotonic(self) -> float:
            return self.at

        def sleep(self, seconds: float) -> None:
            self.at += seconds

    clock = Hand()
    buckets = TokenBuckets(5, clock=clock)
    for _ in range(10):
        buckets.take("a")
    with pytest.raises(Problem) as refused:
        buckets.take("a")
    assert refused.value.headers["Retry-After"] == "1"
    buckets.take("b")
    clock.at = 0.2
    buckets.take("a")
    clock.at = 1000
    for _ in range(10):
        buckets.take("a")
    with pytest.raises(Problem):
        buckets.take("a")
