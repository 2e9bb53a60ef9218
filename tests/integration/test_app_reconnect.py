"""The reference service changes its way to the database under way, and survives the loss of it."""

from __future__ import annotations

import importlib
import os
import re
import secrets
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from psycopg import sql

from dbsec import retry
from dbsec.pg import Conninfo, connect
from dbsec.secret import Secret

PHONE = "+4915112345678"


def new_login(conninfo: Conninfo, name: str) -> Conninfo:
    password = Secret(secrets.token_hex(16))
    with connect(conninfo) as admin:
        role, literal = sql.Identifier(name), sql.Literal(password.reveal())
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}").format(role, literal))
    return conninfo.but(user=name, password=password)


def sessions_of(here: Any, user: str) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND application_name = 'orders@blue'"
    return int(here.rows(query, user)[0][0])


def test_it_moves_to_verified_tls_and_another_login_and_leaves_nothing_behind(private: Any) -> None:
    tls = {"sslmode": "verify-full", "sslrootcert": private.service.folder / "ca.crt", "host": "localhost"}
    private.service.tell(new_login(private.conninfo, "blue_2").but(**tls))
    health = private.service.hang_up()
    assert (health["reconnect"], health["generation"], health["draining"]) == ("ok", 2, 0)
    assert (health["tls"]["ssl"], health["tls"]["version"]) == (True, "TLSv1.3")
    retry.wait_until(lambda: sessions_of(private, "postgres") == 0, within_s=5, what="the old sessions to end")
    assert sessions_of(private, "blue_2") >= 2


def test_a_request_in_flight_ends_on_the_old_connection(private: Any) -> None:
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


def test_a_request_that_waits_for_a_connection_is_not_thrown_out(private: Any, start_service: Any) -> None:
    service = start_service(private.conninfo, APP_POOL_MAX="1", APP_RELEASE="small")
    client = service.client(private.big)
    blocked = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'orders@small'"
    with ThreadPoolExecutor(2) as pool, psycopg.connect(private.conninfo.text()) as blocker:
        blocker.execute("LOCK TABLE app.orders IN ACCESS EXCLUSIVE MODE")
        holder = pool.submit(client.get, "/v1/orders")
        retry.wait_until(lambda: bool(private.rows(blocked)), within_s=5, what="the request to wait")
        queued = pool.submit(client.get, "/healthz")
        time.sleep(0.3)
        os.kill(service.process.pid, signal.SIGHUP)
        new = "SELECT FROM pg_stat_activity WHERE application_name = 'orders@small' AND wait_event_type <> 'Lock'"
        retry.wait_until(lambda: bool(private.rows(new)), within_s=3, what="the new pool")
        time.sleep(0.5)
        assert client.get("/healthz").json()["generation"] == 2
        assert not queued.done()
        blocker.rollback()
        assert (holder.result(timeout=10).status_code, queued.result(timeout=10).status_code) == (200, 200)
    service.stop()


def test_a_dsn_that_does_not_work_changes_nothing_and_shows_no_password(private: Any) -> None:
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


def test_sessions_that_the_server_ended_cost_no_request(private: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: private.as_big.get("/v1/orders?limit=1"), range(64)))
    killed = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'orders@blue'"
    for _ in range(5):
        assert private.rows(killed)
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: private.as_big.get("/v1/orders?limit=1"), range(16)))
        assert {reply.status_code for reply in replies} == {200}, private.service.log


def test_a_database_that_is_away_is_503_and_comes_back_without_a_restart(private: Any, start_service: Any) -> None:
    instance = private.cluster.instance
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


def test_every_query_on_a_tenants_table_names_the_tenant(private: Any) -> None:
    private.cluster.instance.configure({"log_statement": "all"})
    private.cluster.instance.reload()
    key = {"Idempotency-Key": "k"}
    cursor = private.as_big.get("/v1/orders?limit=1").json()["next_cursor"]
    for _ in range(2):
        replies = [
            private.as_big.get("/v1/orders", params={"cursor": cursor}),
            private.as_big.get(f"/v1/users/{private.big.user_ids[0]}"),
            private.as_big.get("/v1/users", params={"phone": private.big.phones[0]}),
            private.as_big.post("/v1/users", json=private.user(phone=PHONE), headers=key),
            private.as_big.post("/v1/orders", json=private.order(private.big), headers={"Idempotency-Key": "o"}),
        ]
    assert all(reply.is_success for reply in replies)
    text = private.cluster.log.read_text()
    statements = re.findall(r"app=orders@blue,\S+ LOG:  (?:execute \S+|statement): (.*(?:\n\t.*)*)", text)
    on_tables = [s for s in statements if re.search(r"app\.(users|orders|idempotency_keys)", s)]
    assert {s.split()[0] for s in on_tables} == {"SELECT", "INSERT", "UPDATE", "DELETE"}
    assert [s for s in on_tables if not re.search(r"tenant_id\s*(=|,)", s)] == []


def test_a_session_ended_under_a_request_does_not_shrink_the_pool(private: Any, start_service: Any) -> None:
    service = start_service(private.conninfo, APP_POOL_MAX="1", APP_RELEASE="small")
    client = service.client(private.big)
    blocked = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'orders@small'"
    for _ in range(2):
        with ThreadPoolExecutor(1) as pool, psycopg.connect(private.conninfo.text()) as blocker:
            blocker.execute("LOCK TABLE app.orders IN ACCESS EXCLUSIVE MODE")
            cut = pool.submit(client.get, "/v1/orders")
            retry.wait_until(lambda: bool(private.rows(blocked)), within_s=5, what="the request to wait")
            private.rows("SELECT pg_terminate_backend(%s, 5000)", private.rows(blocked)[0][0])
            assert cut.result(timeout=10).status_code == 503
    assert client.get("/v1/orders").status_code == 200
    service.stop()
