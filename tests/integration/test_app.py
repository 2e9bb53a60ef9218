"""The reference service over HTTP, on a real server: its schema, its sessions, and what a tenant sees."""

from __future__ import annotations

import importlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from app.sessions import Sessions
from app.tables import Base
from sqlalchemy import create_mock_engine

from dbsec.lab.deployment import deployment_folder
from dbsec.pg import connect

PHONE = "+4915112345678"
DIALECT = create_mock_engine("postgresql+psycopg://", lambda *_: None).dialect
SCHEMA = deployment_folder() / "app" / "schema.sql"


# --- schema


@pytest.mark.pg(15, 17, 18)
def test_the_schema_runs_twice_and_is_what_the_models_say(database: Any) -> None:
    with connect(database.conninfo) as admin:
        for _ in range(2):
            admin.execute(SCHEMA.read_bytes())
        found = admin.execute(
            "SELECT table_name, column_name, upper(data_type), is_nullable = 'YES', is_identity = 'YES'"
            " FROM information_schema.columns WHERE table_schema = 'app' ORDER BY table_name, ordinal_position"
        ).fetchall()
    wanted = [
        (table.name, c.name, c.type.compile(DIALECT), c.nullable, c.identity is not None)
        for table in sorted(Base.metadata.sorted_tables, key=lambda table: table.name)
        for c in table.columns
    ]
    assert found == wanted


@pytest.mark.pg(15, 17, 18)
def test_every_query_of_the_service_runs_on_this_version(database: Any, deploy: Any) -> None:
    here = deploy(database)
    user = here.big.user_ids[3]
    assert here.as_big.get(f"/v1/users/{user}").json()["id"] == user
    assert len(here.as_big.get("/v1/orders").json()["items"]) == 50
    key = {"Idempotency-Key": "k1"}
    first, again = (here.as_big.post("/v1/orders", json=here.order(here.big), headers=key) for _ in range(2))
    assert (first.status_code, again.status_code, first.json()) == (201, 201, again.json())
    assert here.as_big.post("/v1/users", json=here.user(phone=PHONE)).status_code == 201
    assert here.as_big.get("/v1/users", params={"phone": PHONE}).json()["items"][0]["phone"] == PHONE
    assert here.service.health()["status"] == "ok"
    here.service.stop()


# --- sessions


def test_an_unknown_tenant_and_a_wrong_key_look_alike(deployed: Any) -> None:
    client = deployed.service.client()
    replies = [
        client.post("/v1/login", json={"tenant": slug, "api_key": key})
        for slug, key in ((deployed.big.slug, "wrong"), ("nobody", deployed.big.api_key.reveal()))
    ]
    assert [reply.status_code for reply in replies] == [401, 401]
    assert replies[0].content == replies[1].content
    assert replies[0].headers["WWW-Authenticate"] == "Bearer"


def claims(**changes: object) -> dict[str, object]:
    now = datetime.now(UTC)
    usual = {"sub": str(secrets.token_hex(16)), "iss": "orders", "aud": "orders-api", "iat": now}
    return {**usual, "exp": now + timedelta(minutes=5), **changes}


def signing_key(deployed: Any) -> bytes:
    settings = importlib.import_module("app.settings").Settings
    folder = deployed.service.folder
    environ = {"APP_DSN": "env:X", "APP_SESSION_KEY": f"file:{folder}/session"}
    key: bytes = settings.from_environ(environ).subkey("session")
    return key


def status_with(deployed: Any, token: str) -> int:
    reply = deployed.service.client().get("/v1/orders", headers={"Authorization": f"Bearer {token}"})
    return int(reply.status_code)


def test_a_token_with_the_right_key_and_claims_is_let_in(deployed: Any) -> None:
    # the control of the next test: what it changes is what gets a token refused
    assert status_with(deployed, jwt.encode(claims(), signing_key(deployed), "HS256")) == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": datetime(2020, 1, 1, tzinfo=UTC)},
        {"aud": "another-api"},
        {"iss": "another"},
        {"sub": "not a uuid"},
        {"exp": None},
        {"aud": None},
        {"sub": None},
    ],
)
def test_a_token_with_a_bad_claim_is_refused(deployed: Any, changes: dict[str, object]) -> None:
    told = {name: value for name, value in claims(**changes).items() if value is not None}
    assert status_with(deployed, jwt.encode(told, signing_key(deployed), "HS256")) == 401


@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
def test_another_key_or_algorithm_is_refused(deployed: Any) -> None:
    assert status_with(deployed, jwt.encode(claims(), b"x" * 32, "HS256")) == 401
    assert status_with(deployed, jwt.encode(claims(), "", "none")) == 401
    assert status_with(deployed, jwt.encode(claims(), signing_key(deployed), "HS512")) == 401
    for header in ({}, {"Authorization": "Bearer"}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer x.y.z"}):
        assert deployed.service.client().get("/v1/orders", headers=header).status_code == 401


def test_a_token_ends(deployed: Any) -> None:
    class Past:
        def now(self) -> datetime:
            return datetime.now(UTC) - timedelta(minutes=16)

        def monotonic(self) -> float:
            return 0

        def sleep(self, seconds: float) -> None:
            return

    key = signing_key(deployed)
    assert status_with(deployed, Sessions(key, "orders").issue(deployed.big.id)) == 200
    assert status_with(deployed, Sessions(key, "orders", clock=Past()).issue(deployed.big.id)) == 401


# --- tenants


def test_another_tenants_rows_are_as_unknown_as_rows_that_never_were(deployed: Any) -> None:
    theirs = deployed.other.user_ids[0]
    assert deployed.as_other.get(f"/v1/users/{theirs}").status_code == 200
    refused, never = (deployed.as_big.get(f"/v1/users/{user}") for user in (theirs, 10**15))
    assert (refused.status_code, refused.content) == (404, never.content)
    assert deployed.as_big.get("/v1/users", params={"phone": deployed.other.phones[0]}).json() == {"items": []}
    order = deployed.as_big.post("/v1/orders", json=deployed.order(deployed.other))
    assert (order.status_code, order.json()["type"]) == (422, "urn:dbsec:app:problem:no-such-user")


def test_another_tenants_cursor_is_refused(deployed: Any) -> None:
    cursor = deployed.as_other.get("/v1/orders?limit=5").json()["next_cursor"]
    assert deployed.as_other.get("/v1/orders", params={"cursor": cursor}).status_code == 200
    assert deployed.as_big.get("/v1/orders", params={"cursor": cursor}).status_code == 400
    assert deployed.as_other.get("/v1/orders", params={"cursor": cursor[:-1] + "!"}).status_code == 400


def test_pages_hold_every_order_once_in_order_while_others_are_written(deployed: Any) -> None:
    tenant = deployed.data.tenants[-1]
    client = deployed.service.client(tenant)
    newest_first = [
        row[0]
        for row in deployed.rows(
            "SELECT id FROM app.orders WHERE tenant_id = %s ORDER BY created_at DESC, id DESC", tenant.id
        )
    ]
    seen: list[int] = []
    cursor: str | None = None
    while True:
        page = client.get("/v1/orders", params={"limit": 100, **({"cursor": cursor} if cursor else {})}).json()
        seen += [order["id"] for order in page["items"]]
        assert client.post("/v1/orders", json=deployed.order(tenant)).status_code == 201
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(newest_first) > 300
    assert seen == newest_first


def test_a_page_has_at_most_a_hundred(deployed: Any) -> None:
    assert len(deployed.as_big.get("/v1/orders?limit=5000").json()["items"]) == 100
    assert deployed.as_big.get("/v1/orders?limit=0").status_code == 422
