"""The reference service behind PgBouncer in transaction mode."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from dbsec import files, process, retry
from dbsec.lab import ports
from dbsec.pg import Conninfo


@pytest.fixture(scope="module")
def pgbouncer(cluster: Any, own_database: Conninfo, deployed: Any) -> Iterator[Conninfo]:
    """PgBouncer in transaction mode before the tests' database, with three server connections."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        reason = "pgbouncer is not installed: make setup-extra"
        pytest.fail(reason) if os.environ.get("DBSEC_REQUIRE") == "all" else pytest.skip(reason)
    folder = cluster.instance.data.parent
    (port,) = ports.free(1)
    assert own_database.password is not None
    ini = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": f"{folder}/users.txt",
        "pool_mode": "transaction",
        "default_pool_size": 3,
        "admin_users": "postgres",
    }
    owner = None if cluster.account.is_current else (cluster.account.uid, cluster.account.gid)
    files.write_atomic(folder / "users.txt", f'"postgres" "{own_database.password.reveal()}"\n', owner=owner)
    server = f"host=127.0.0.1 port={own_database.port} dbname={own_database.dbname}"
    text = f"[databases]\nown = {server}\n[pgbouncer]\n" + "".join(f"{k} = {v}\n" for k, v in ini.items())
    files.write_atomic(folder / "pgbouncer.ini", text, owner=owner)
    argv = [program, folder / "pgbouncer.ini"]
    running = process.spawn(argv, cwd=folder, log=folder / "pgbouncer.log", account=cluster.account)
    retry.wait_until(lambda: ports.taken(port), within_s=10, what="pgbouncer")
    yield own_database.but(port=port, dbname="own")
    process.stop(running)


def test_prepared_statements_do_break_behind_this_pgbouncer(pgbouncer: Conninfo) -> None:
    # the control of the next test: what the service is protected from is real
    clients = [psycopg.connect(pgbouncer.text(), prepare_threshold=0, autocommit=True) for _ in range(3)]
    broken = (psycopg.errors.InvalidSqlStatementName, psycopg.errors.DuplicatePreparedStatement)

    def take_turns() -> None:
        for turn in range(20):
            clients[turn % 3].execute("SELECT %s + 1", (turn,))

    with pytest.raises(broken):
        take_turns()
    for client in clients:
        client.close()
    with psycopg.connect(pgbouncer.but(dbname="pgbouncer").text(), autocommit=True) as console:
        psycopg.ClientCursor(console).execute("RECONNECT own")  # the statements that were left behind end with it


def test_behind_pgbouncer_the_service_prepares_nothing_and_nothing_fails(
    deployed: Any, pgbouncer: Conninfo, start_service: Any
) -> None:
    service = start_service(pgbouncer)
    assert service.health()["prepared_statements"] is False
    client = service.client(deployed.big)
    calls = ["/v1/orders?limit=3", f"/v1/users/{deployed.big.user_ids[0]}", "/healthz"] * 60
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(client.get, calls))
    assert {reply.status_code for reply in replies} == {200}
    assert client.post("/v1/orders", json=deployed.order(deployed.big)).status_code == 201
    with psycopg.connect(pgbouncer.text(), prepare_threshold=None) as one:
        assert one.execute("SELECT name FROM pg_prepared_statements").fetchall() == []
    service.stop()
