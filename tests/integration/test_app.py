"""The reference service over HTTP, on a real server: what it answers, what it refuses, and what it never shows."""

from __future__ import annotations

import importlib
import inspect
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import psycopg
import pytest
from app.limits import TokenBuckets
from app.problems import Problem
from app.sessions import Sessions
from app.tables import Base
from psycopg import sql
from sqlalchemy import create_mock_engine

from dbsec import files, process, retry
from dbsec.lab import dataset
from dbsec.lab.dataset import Dataset, Scale, Tenant
from dbsec.lab.deployment import deployment_folder
from dbsec.pg import Conninfo, connect
from dbsec.progress import Silent
from dbsec.secret import Secret
from dbsec.tls.ca import Authority

PHONE = "+4915112345678"
DIALECT = create_mock_engine("postgresql+psycopg://", lambda *_: None).dialect
SCHEMA = deployment_folder() / "app" / "schema.sql"


class Deployed:
    """A database with small data and the service on it, shared by the tests that change nothing but rows."""

    def __init__(self, conninfo: Conninfo, data: Dataset, service: Any) -> None:
        self.conninfo = conninfo
        self.data = data
        self.service = service
        self.big, self.other = data.tenants[0], data.tenants[1]
        self.as_big = service.client(self.big)
        self.as_other = service.client(self.other)

    def rows(self, query: Any, *params: object) -> list[Any]:
        with connect(self.conninfo) as admin:
            return admin.execute(query, params).fetchall()


def fill(conninfo: Conninfo) -> Dataset:
    with connect(conninfo) as admin:
        return dataset.create(admin, Scale.SMALL, seed=7, progress=Silent())


@pytest.fixture(scope="module")
def own_database(cluster: Any) -> Iterator[Conninfo]:
    name = f"t_{secrets.token_hex(4)}"
    yield cluster.create_database(name)
    cluster.drop_database(name)


@pytest.fixture(scope="module")
def deployed(own_database: Conninfo, start_service: Any) -> Deployed:
    return Deployed(own_database, fill(own_database), start_service(own_database, APP_RELEASE="blue"))


def an_order(tenant: Tenant, **changes: object) -> dict[str, object]:
    return {"user_id": tenant.user_ids[0], "amount_cents": 1999, "currency": "EUR", **changes}


def a_user(**changes: object) -> dict[str, object]:
    return {"name": "Zoë Ölund", "email": "zoe@example.org", "phone": f"+88{secrets.randbelow(10**9):09}", **changes}


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
def test_every_query_of_the_service_runs_on_this_version(database: Any, start_service: Any) -> None:
    here = Deployed(database.conninfo, fill(database.conninfo), start_service(database.conninfo))
    user = here.big.user_ids[3]
    assert here.as_big.get(f"/v1/users/{user}").json()["id"] == user
    assert len(here.as_big.get("/v1/orders").json()["items"]) == 50
    key = {"Idempotency-Key": "k1"}
    first, again = (here.as_big.post("/v1/orders", json=an_order(here.big), headers=key) for _ in range(2))
    assert (first.status_code, again.status_code, first.json()) == (201, 201, again.json())
    assert here.as_big.post("/v1/users", json=a_user(phone=PHONE)).status_code == 201
    assert here.as_big.get("/v1/users", params={"phone": PHONE}).json()["items"][0]["phone"] == PHONE
    assert here.service.health()["status"] == "ok"
    here.service.stop()


# --- sessions


def test_an_unknown_tenant_and_a_wrong_key_look_alike(deployed: Deployed) -> None:
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


def signing_key(deployed: Deployed) -> bytes:
    settings = importlib.import_module("app.settings").Settings
    folder = deployed.service.folder
    environ = {"APP_DSN": "env:X", "APP_SESSION_KEY": f"file:{folder}/session"}
    key: bytes = settings.from_environ(environ).subkey("session")
    return key


def status_with(deployed: Deployed, token: str) -> int:
    reply = deployed.service.client().get("/v1/orders", headers={"Authorization": f"Bearer {token}"})
    return int(reply.status_code)


def test_a_token_with_the_right_key_and_claims_is_let_in(deployed: Deployed) -> None:
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
def test_a_token_with_a_bad_claim_is_refused(deployed: Deployed, changes: dict[str, object]) -> None:
    told = {name: value for name, value in claims(**changes).items() if value is not None}
    assert status_with(deployed, jwt.encode(told, signing_key(deployed), "HS256")) == 401


@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
def test_another_key_or_algorithm_is_refused(deployed: Deployed) -> None:
    assert status_with(deployed, jwt.encode(claims(), b"x" * 32, "HS256")) == 401
    assert status_with(deployed, jwt.encode(claims(), "", "none")) == 401
    assert status_with(deployed, jwt.encode(claims(), signing_key(deployed), "HS512")) == 401
    for header in ({}, {"Authorization": "Bearer"}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer x.y.z"}):
        assert deployed.service.client().get("/v1/orders", headers=header).status_code == 401


def test_a_token_ends(deployed: Deployed) -> None:
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


def test_another_tenants_rows_are_as_unknown_as_rows_that_never_were(deployed: Deployed) -> None:
    theirs = deployed.other.user_ids[0]
    assert deployed.as_other.get(f"/v1/users/{theirs}").status_code == 200
    refused, never = (deployed.as_big.get(f"/v1/users/{user}") for user in (theirs, 10**15))
    assert (refused.status_code, refused.content) == (404, never.content)
    assert deployed.as_big.get("/v1/users", params={"phone": deployed.other.phones[0]}).json() == {"items": []}
    order = deployed.as_big.post("/v1/orders", json=an_order(deployed.other))
    assert (order.status_code, order.json()["type"]) == (422, "urn:dbsec:app:problem:no-such-user")


def test_another_tenants_cursor_is_refused(deployed: Deployed) -> None:
    cursor = deployed.as_other.get("/v1/orders?limit=5").json()["next_cursor"]
    assert deployed.as_other.get("/v1/orders", params={"cursor": cursor}).status_code == 200
    assert deployed.as_big.get("/v1/orders", params={"cursor": cursor}).status_code == 400
    assert deployed.as_other.get("/v1/orders", params={"cursor": cursor[:-1] + "!"}).status_code == 400


def test_pages_hold_every_order_once_in_order_while_others_are_written(deployed: Deployed) -> None:
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
        assert client.post("/v1/orders", json=an_order(tenant)).status_code == 201
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(newest_first) > 300
    assert seen == newest_first


def test_a_page_has_at_most_a_hundred(deployed: Deployed) -> None:
    assert len(deployed.as_big.get("/v1/orders?limit=5000").json()["items"]) == 100
    assert deployed.as_big.get("/v1/orders?limit=0").status_code == 422


# --- writes


def test_a_repeated_write_gets_the_first_answer_and_writes_nothing(deployed: Deployed) -> None:
    new, key = a_user(), {"Idempotency-Key": secrets.token_hex(8)}
    first, again = (deployed.as_big.post("/v1/users", json=new, headers=key) for _ in range(2))
    assert (first.status_code, first.content) == (201, again.content)
    assert (first.headers.get("Idempotency-Replayed"), again.headers["Idempotency-Replayed"]) == (None, "true")
    assert deployed.rows("SELECT count(*) FROM app.users WHERE phone = %s", new["phone"]) == [(1,)]


def test_a_key_belongs_to_one_request_and_one_tenant(deployed: Deployed) -> None:
    key = {"Idempotency-Key": secrets.token_hex(8)}
    order = an_order(deployed.big)
    assert deployed.as_big.post("/v1/orders", json=order, headers=key).status_code == 201
    assert deployed.as_big.post("/v1/orders", json={**order, "amount_cents": 2}, headers=key).status_code == 422
    assert deployed.as_big.post("/v1/users", json=a_user(), headers=key).status_code == 422
    theirs = deployed.as_other.post("/v1/orders", json=an_order(deployed.other), headers=key)
    assert (theirs.status_code, "Idempotency-Replayed" in theirs.headers) == (201, False)


def test_concurrent_duplicates_write_once(deployed: Deployed) -> None:
    new, key = a_user(), {"Idempotency-Key": secrets.token_hex(8)}
    together = threading.Barrier(12)

    def send(_: int) -> httpx.Response:
        together.wait()
        reply: httpx.Response = deployed.as_big.post("/v1/users", json=new, headers=key)
        return reply

    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(send, range(12)))
    assert {(reply.status_code, reply.content) for reply in replies} == {(201, replies[0].content)}
    assert sum("Idempotency-Replayed" in reply.headers for reply in replies) == 11


def test_a_write_that_failed_leaves_its_key_free(deployed: Deployed) -> None:
    key = {"Idempotency-Key": secrets.token_hex(8)}
    taken = deployed.as_big.post("/v1/users", json=a_user(phone=deployed.big.phones[0]), headers=key)
    assert (taken.status_code, taken.json()["type"]) == (409, "urn:dbsec:app:problem:phone-taken")
    assert deployed.as_big.post("/v1/users", json=a_user(), headers=key).status_code == 201


def test_stored_answers_hold_nothing_personal_and_go_after_a_day(deployed: Deployed) -> None:
    client = deployed.service.client(deployed.data.tenants[3])
    new = a_user()
    for n in range(3):
        body = {**new, "phone": f"+8811{secrets.randbelow(10**8):08}"}
        assert client.post("/v1/users", json=body, headers={"Idempotency-Key": f"old-{n}"}).status_code == 201
    stored = "".join(row[0] for row in deployed.rows("SELECT response FROM app.idempotency_keys"))
    assert not any(text in stored for text in ("+88", "zoe@", "Zo"))
    with connect(deployed.conninfo) as admin:
        admin.execute(
            "UPDATE app.idempotency_keys SET created_at = now() - interval '25 h' WHERE starts_with(key, 'old-')"
        )
    assert client.post("/v1/users", json=a_user(), headers={"Idempotency-Key": "new"}).status_code == 201
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
def test_a_bad_body_is_a_problem_that_repeats_nothing(deployed: Deployed, body: bytes, status: int) -> None:
    reply = deployed.as_big.post("/v1/users", content=body, headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.headers["Content-Type"]) == (status, "application/problem+json")
    assert reply.json()["status"] == status
    assert PHONE not in reply.text


def test_a_long_body_of_unknown_length_is_cut_off(deployed: Deployed) -> None:
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
def test_other_errors_are_problems_too(deployed: Deployed, method: str, path: str, status: int) -> None:
    reply = deployed.as_big.request(method, path)
    assert (reply.status_code, reply.headers["Content-Type"]) == (status, "application/problem+json")


def test_an_error_of_the_database_shows_neither_sql_nor_rows(deployed: Deployed) -> None:
    with connect(deployed.conninfo) as admin:
        admin.execute("ALTER TABLE app.users ADD CONSTRAINT no_emus CHECK (name <> 'Emu')")
        reply = deployed.as_big.post("/v1/users", json=a_user(name="Emu", phone=PHONE))
        admin.execute("ALTER TABLE app.users DROP CONSTRAINT no_emus")
    assert (reply.status_code, reply.json()["detail"]) == (500, "this is our fault, and it is in our log")
    assert "SQLSTATE 23514" in deployed.service.log
    for shown in (reply.text, deployed.service.log):
        assert not any(text in shown for text in (PHONE, "INSERT", "no_emus", "Traceback"))


def test_the_rate_limit_is_a_tenants_own_and_says_when_to_come_back(deployed: Deployed, start_service: Any) -> None:
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


# --- operation


def test_health_says_who_and_over_what(deployed: Deployed) -> None:
    health = deployed.service.health()
    assert (health["status"], health["release"], health["generation"], health["draining"]) == ("ok", "blue", 1, 0)
    assert health["tls"] == {"ssl": False, "version": None, "cipher": None}
    assert health["prepared_statements"] is True
    names = deployed.rows("SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = current_database()")
    assert ("orders@blue",) in names


def test_metrics_name_routes_and_no_tenant(deployed: Deployed) -> None:
    deployed.as_big.get(f"/v1/users/{deployed.big.user_ids[0]}")
    text = deployed.service.client().get("/metrics").text
    assert 'app_requests_total{method="GET",route="/v1/users/{user_id}",status="200"}' in text
    assert 'app_pool_connections{state="idle"}' in text
    assert str(deployed.big.id) not in text
    assert deployed.big.slug not in text


def test_no_phone_and_no_key_is_in_the_log(deployed: Deployed) -> None:
    deployed.as_big.get("/v1/users", params={"phone": deployed.big.phones[0]})
    log = deployed.service.log
    assert "startup complete" in log
    assert deployed.conninfo.password is not None
    for text in (deployed.big.phones[0][1:], deployed.big.api_key.reveal(), deployed.conninfo.password.reveal()):
        assert text not in log


def test_flags_are_read_again_and_a_bad_file_changes_nothing(
    own_database: Conninfo, start_service: Any, tmp_path: Any
) -> None:
    flags = tmp_path / "flags.json"
    flags.write_text('{"dual_write": true}')
    service = start_service(own_database, APP_FLAGS=str(flags))
    assert service.health()["flags"] == {"dual_write": True, "read_switch": False}
    flags.write_text('{"read_switch": true}')
    assert service.hang_up()["flags"] == {"dual_write": False, "read_switch": True}
    for bad in ('{"drop_table": true}', '{"read_switch": 1}', "[]", "{"):
        flags.write_text(bad)
        assert service.hang_up()["flags"] == {"dual_write": False, "read_switch": True}
    service.stop()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "APP_SESSION_KEY is not set"),
        ({"APP_SESSION_KEY": "hunter2-in-clear"}, "given by reference, never by value"),
        ({"APP_SESSION_KEY": "env:SHORT", "SHORT": "hunter2"}, "under 32 bytes"),
        ({"APP_DSN": "env:DSN", "DSN": "host=x hunter2"}, "not one that libpq reads"),
        ({"APP_RATE_PER_S": "0"}, "it must be 1 to"),
    ],
)
def test_a_bad_configuration_stops_the_start_and_is_not_quoted(
    environ: dict[str, str], said: str, tmp_path: Any
) -> None:
    good = {"APP_SESSION_KEY": "env:KEY", "KEY": "k" * 32, "APP_DSN": "env:DSN", "DSN": "host=127.0.0.1"}
    told = {**good, **environ} if environ else {}
    argv = [
        importlib.import_module("sys").executable,
        "-m",
        "uvicorn",
        "app.main:app",
        "--app-dir",
        deployment_folder(),
    ]
    with pytest.raises(Exception, match="ended with 3") as stopped:
        process.run([*argv, "--port", "1"], cwd=tmp_path, env=told)
    assert said in str(stopped.value)
    assert "hunter2" not in str(stopped.value)


# --- reconnecting


@pytest.fixture
def private(cluster_factory: Any, start_service: Any) -> Iterator[Deployed]:
    """A server of its own, with TLS, for tests that end sessions or change logins."""
    made = cluster_factory()
    authority = Authority.create("test CA")
    pair = authority.issue_server(["localhost", "127.0.0.1"])
    made.instance.write("server.crt", pair.certificate)
    made.instance.write("server.key", pair.key)
    made.instance.configure({"ssl": "on"})
    made.instance.reload()
    conninfo = made.create_database("own").but(sslmode="disable")
    here = Deployed(conninfo, fill(conninfo), start_service(conninfo, APP_RELEASE="blue"))
    files.write_atomic(here.service.folder / "ca.crt", authority.certificate)
    here.cluster = made  # type: ignore[attr-defined]
    yield here
    here.service.stop()


def new_login(conninfo: Conninfo, name: str) -> Conninfo:
    password = Secret(secrets.token_hex(16))
    with connect(conninfo) as admin:
        role, literal = sql.Identifier(name), sql.Literal(password.reveal())
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}").format(role, literal))
    return conninfo.but(user=name, password=password)


def sessions_of(here: Deployed, user: str) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND application_name = 'orders@blue'"
    return int(here.rows(query, user)[0][0])


def test_it_moves_to_verified_tls_and_another_login_and_leaves_nothing_behind(private: Deployed) -> None:
    tls = {"sslmode": "verify-full", "sslrootcert": private.service.folder / "ca.crt", "host": "localhost"}
    private.service.tell(new_login(private.conninfo, "blue_2").but(**tls))
    health = private.service.hang_up()
    assert (health["reconnect"], health["generation"], health["draining"]) == ("ok", 2, 0)
    assert (health["tls"]["ssl"], health["tls"]["version"]) == (True, "TLSv1.3")
    retry.wait_until(lambda: sessions_of(private, "postgres") == 0, within_s=5, what="the old sessions to end")
    assert sessions_of(private, "blue_2") >= 2


def test_a_request_in_flight_ends_on_the_old_connection(private: Deployed) -> None:
    private.service.tell(new_login(private.conninfo, "blue_2"))
    with ThreadPoolExecutor(1) as pool, psycopg.connect(private.conninfo.text()) as blocker:
        blocker.execute("LOCK TABLE app.orders IN ACCESS EXCLUSIVE MODE")
        slow = pool.submit(private.as_big.get, "/v1/orders")
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'postgres'"
        retry.wait_until(lambda: private.rows(waiting) == [(1,)], within_s=5, what="the request to wait")
        health = private.service.hang_up()
        assert (health["generation"], health["draining"], health["reconnect"]) == (2, 1, "ok")
        assert sessions_of(private, "postgres") == 1
        assert private.as_big.get(f"/v1/users/{private.big.user_ids[0]}").status_code == 200
        blocker.rollback()
        assert slow.result(timeout=10).status_code == 200
    retry.wait_until(lambda: private.service.health()["draining"] == 0, within_s=5, what="the old pool to drain")
    retry.wait_until(lambda: sessions_of(private, "postgres") == 0, within_s=5, what="the old session to end")


def test_a_dsn_that_does_not_work_changes_nothing_and_shows_no_password(private: Deployed) -> None:
    for bad, said in (
        (private.conninfo.but(password=Secret("hunter2-wrong")), "password authentication failed"),
        (private.conninfo.but(sslmode="verify-full", sslrootcert="/nowhere/ca.crt"), "root certificate file"),
        (private.conninfo.but(port=1), "refused"),
        (private.conninfo.but(dbname="no_such_database"), "does not exist"),
    ):
        private.service.tell(bad)
        health = private.service.hang_up()
        assert health["reconnect"].startswith("failed: ")
        assert said in health["reconnect"]
        assert (health["status"], health["generation"]) == ("ok", 1)
        assert private.as_big.get("/v1/orders?limit=1").status_code == 200
        assert "hunter2" not in str(health) + private.service.log
    private.service.tell(private.conninfo)
    assert private.service.hang_up()["reconnect"] == "ok"


def test_sessions_that_the_server_ended_cost_no_request(private: Deployed) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: private.as_big.get("/v1/orders?limit=1"), range(64)))
    killed = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'orders@blue'"
    for _ in range(5):
        assert private.rows(killed)
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: private.as_big.get("/v1/orders?limit=1"), range(16)))
        assert {reply.status_code for reply in replies} == {200}, private.service.log


def test_a_database_that_is_away_is_503_and_comes_back_without_a_restart(private: Deployed, start_service: Any) -> None:
    instance = private.cluster.instance  # type: ignore[attr-defined]
    instance.stop()
    reply = private.as_big.get("/v1/orders")
    assert (reply.status_code, reply.headers["Content-Type"]) == (503, "application/problem+json")
    assert reply.headers["Retry-After"] == "1"
    health = private.service.client().get("/healthz")
    assert (health.status_code, health.json()["generation"]) == (503, 1)
    late = start_service(private.conninfo, healthy=False)
    instance.start()
    for service in (private.service, late):
        wanted = "the service to find its database again"
        retry.wait_until(lambda: service.health().get("status") == "ok", within_s=15, what=wanted)  # noqa: B023
    assert private.as_big.get("/v1/orders").status_code == 200
    late.stop()


def test_a_borrowed_connection_does_not_collect_notice_handlers(own_database: Conninfo) -> None:
    database = importlib.import_module("app.database")
    generation = database.Generation(1, own_database, max_size=1)
    generation.verify()
    try:
        for _ in range(5):
            with generation.engine.connect() as connection:
                driver = connection.connection.driver_connection
                assert len(driver._notice_handlers) == 1
        # it is one real connection, borrowed each time
        assert generation.pool.get_stats()["connections_num"] == 1
    finally:
        generation.pool.close()


def test_every_query_names_the_tenant() -> None:
    for name in ("users", "orders"):
        source = inspect.getsource(importlib.import_module(f"app.{name}"))
        assert source.count("select(") == source.count(".tenant_id == tenant") > 0
