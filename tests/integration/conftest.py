"""The reference service as a process, for the tests that talk to it."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.orm_bed import shop

from dbsec import files, process, retry
from dbsec.lab import dataset, ports
from dbsec.lab.dataset import Scale, Tenant
from dbsec.lab.deployment import deployment_folder
from dbsec.pg import Conninfo, connect
from dbsec.process import ProcessId
from dbsec.progress import Silent
from dbsec.testing.clusters import Cluster
from dbsec.tls.ca import Authority

# the tests of its parts import them as the service itself does
sys.path.insert(0, str(deployment_folder()))

SESSION_KEY = "a key of the tests, and of no service: " + "0123456789abcdef" * 2


@dataclass(frozen=True)
class Service:
    """A running service; its DSN, flags and log lie in ``folder``."""

    folder: Path
    port: int
    process: ProcessId
    clients: list[httpx.Client] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "service.log").read_text()

    def client(self, tenant: Tenant | None = None) -> httpx.Client:
        """Return a client, logged in where a tenant is given."""
        client = httpx.Client(base_url=self.base_url, timeout=15, trust_env=False)
        self.clients.append(client)
        if tenant is not None:
            reply = client.post("/v1/login", json={"tenant": tenant.slug, "api_key": tenant.api_key.reveal()})
            client.headers["Authorization"] = f"Bearer {reply.json()['token']}"
        return client

    def health(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.base_url}/healthz", timeout=15, trust_env=False).json())

    def stop(self) -> None:
        process.stop(self.process)
        for client in self.clients:
            client.close()

    def tell(self, conninfo: Conninfo) -> None:
        """Write another DSN; it counts from the next start or SIGHUP."""
        files.write_atomic(self.folder / "dsn", conninfo.text())

    def hang_up(self, *, within_s: float = 20) -> dict[str, Any]:
        """Send SIGHUP and wait until that reload has ended; returns the health after it."""
        before = self.health()["reconnect_attempts"]
        os.kill(self.process.pid, signal.SIGHUP)
        wanted = "the reload to end"
        retry.wait_until(lambda: self.health()["reconnect_attempts"] > before, within_s=within_s, what=wanted)
        return self.health()


StartService = Callable[..., Service]


@pytest.fixture(scope="session")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartService]:
    """Start services: ``start_service(conninfo, APP_RATE_PER_S="5", healthy=False)``; all are stopped in the end."""
    started: list[Service] = []

    def start(conninfo: Conninfo, *, healthy: bool = True, **env: str) -> Service:
        folder = tmp_path_factory.mktemp("service")
        files.write_atomic(folder / "session", SESSION_KEY)
        files.write_atomic(folder / "dsn", conninfo.text())
        (port,) = ports.free(1)
        told = {
            "APP_DSN": f"file:{folder}/dsn",
            "APP_SESSION_KEY": f"file:{folder}/session",
            "APP_RATE_PER_S": "10000",
            **env,
        }
        argv: list[str | Path] = [sys.executable, "-m", "uvicorn", "app.main:app", "--app-dir", deployment_folder()]
        argv += ["--host", "127.0.0.1", "--port", str(port), "--timeout-keep-alive", "60"]
        service = Service(folder, port, process.spawn(argv, cwd=folder, log=folder / "service.log", env=told))
        started.append(service)
        wanted = {200} if healthy else {200, 503}
        retry.retry(lambda: _answers(service, wanted), on=(httpx.HTTPError,), within_s=30, what="the service to answer")
        return service

    yield start
    for service in started:
        service.stop()


def _answers(service: Service, wanted: set[int]) -> None:
    assert service.process.alive, service.log
    reply = httpx.get(f"{service.base_url}/healthz", timeout=15, trust_env=False)
    if reply.status_code not in wanted:
        reply.raise_for_status()


class Deployed:
    """A database with small data and the service on it; tests change nothing but rows."""

    def __init__(self, conninfo: Conninfo, start: StartService, cluster: Cluster) -> None:
        self.conninfo = conninfo
        self.cluster = cluster
        with connect(conninfo) as admin:
            self.data = dataset.create(admin, Scale.SMALL, seed=7, progress=Silent())
        self.service = start(conninfo, APP_RELEASE="blue")
        self.big, self.other = self.data.tenants[0], self.data.tenants[1]
        self.as_big = self.service.client(self.big)
        self.as_other = self.service.client(self.other)

    def rows(self, query: Any, *params: object) -> list[Any]:
        with connect(self.conninfo) as admin:
            return admin.execute(query, params).fetchall()

    @staticmethod
    def order(tenant: Tenant, **changes: object) -> dict[str, object]:
        return {"user_id": tenant.user_ids[0], "amount_cents": 1999, "currency": "EUR", **changes}

    @staticmethod
    def user(**changes: object) -> dict[str, object]:
        phone = f"+88{secrets.randbelow(10**9):09}"
        return {"name": "Zoë Ölund", "email": "zoe@example.org", "phone": phone, **changes}


@pytest.fixture(scope="session")
def own_database(cluster: Cluster) -> Iterator[Conninfo]:
    name = f"t_{secrets.token_hex(4)}"
    yield cluster.create_database(name)
    cluster.drop_database(name)


@pytest.fixture(scope="session")
def deployed(own_database: Conninfo, cluster: Cluster, start_service: StartService) -> Deployed:
    return Deployed(own_database, start_service, cluster)


@pytest.fixture
def deploy(start_service: StartService) -> Callable[[Any], Deployed]:
    """Deploy on what the ``database`` fixture made."""
    return lambda database: Deployed(database.conninfo, start_service, database.cluster)


@pytest.fixture
def private(cluster_factory: Callable[..., Cluster], start_service: StartService) -> Iterator[Deployed]:
    """A server of its own, with TLS, for tests that end sessions or change logins."""
    made = cluster_factory()
    authority = Authority.create("test CA")
    pair = authority.issue_server(["localhost", "127.0.0.1"])
    made.instance.write("server.crt", pair.certificate)
    made.instance.write("server.key", pair.key)
    made.instance.configure({"ssl": "on"})
    made.instance.reload()
    here = Deployed(made.create_database("own").but(sslmode="disable"), start_service, made)
    files.write_atomic(here.service.folder / "ca.crt", authority.certificate)
    yield here
    here.service.stop()
    made.instance.stop()


@pytest.fixture(scope="session")
def orm_bed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An engine on encrypted tables and the keyring under it, made once; tests leave rows, not changes of schema."""
    name = f"t_{secrets.token_hex(4)}"
    conninfo = cluster.create_database(name)
    with shop(conninfo, tmp_path_factory.mktemp("orm")) as made:
        yield *made, conninfo
    cluster.drop_database(name)


@pytest.fixture
def orm_engine(orm_bed: Any) -> Iterator[Any]:
    """The engine; what a test wrote is gone after it."""
    engine = orm_bed[0]
    yield engine
    with engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE shop.users, shop.orders, shop.letters, shop.tags")


@pytest.fixture
def orm_bench(orm_bed: Any) -> Any:
    """The keyring and the KMS under ``orm_engine``."""
    return orm_bed[1]
