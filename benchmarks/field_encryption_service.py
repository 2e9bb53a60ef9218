"""What field encryption costs the running service: the release in clear beside the one that encrypts phone and e-mail.

Both are the reference service as a process, on databases of one server with the same users; KEKs of the tenants in a
file. The same clients ask one, then the other, in turn: reads by id, look-ups by phone and by e-mail, new users.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
from _bench import arguments, last_line
from rich.console import Console
from rich.table import Table

from dbsec import files, process, retry
from dbsec.kms import open_admin
from dbsec.lab import account, dataset, ports
from dbsec.lab.dataset import Scale, Tenant
from dbsec.lab.deployment import deployment_folder
from dbsec.pg import Conninfo, connect, own
from dbsec.progress import Silent
from dbsec.testing.clusters import Clusters

CLIENTS = 4
FIGURES = ("p50_ms", "p99_ms", "per_s")
ACTS = ("read by id", "find by phone", "find by e-mail", "create")
COLUMNS = """
ALTER TABLE app.users ADD COLUMN phone_enc bytea, ADD COLUMN phone_bidx bytea, ALTER COLUMN phone DROP NOT NULL,
  ADD COLUMN email_enc bytea, ALTER COLUMN email DROP NOT NULL;
CREATE UNIQUE INDEX users_tenant_phone_bidx_key ON app.users (tenant_id, phone_bidx);
CREATE INDEX users_tenant_email_enc_idx ON app.users (tenant_id, email_enc)
"""


@dataclass
class Release:
    """One release under test, and what each of its clients knows: a user's id, phone and e-mail address."""

    name: str
    base_url: str
    tenant: Tenant
    known: list[dict[str, str]]

    def client(self) -> httpx.Client:
        """Return a client that is logged in."""
        login = {"tenant": self.tenant.slug, "api_key": self.tenant.api_key.reveal()}
        reply = httpx.post(f"{self.base_url}/v1/login", json=login, timeout=15, trust_env=False)
        headers = {"Authorization": f"Bearer {reply.raise_for_status().json()['token']}"}
        return httpx.Client(base_url=self.base_url, timeout=15, trust_env=False, headers=headers)


def new_user() -> dict[str, str]:
    """Return a user that nobody has."""
    word = secrets.token_hex(6)
    return {"name": "Zoë Ölund", "email": f"{word}@example.org", "phone": f"+88{secrets.randbelow(10**11):011}"}


def act(client: httpx.Client, name: str, release: Release) -> None:
    """Do one thing once, and check its answer."""
    user = secrets.choice(release.known)
    if name == "create":
        reply = client.post("/v1/users", json=new_user())
    elif name == "read by id":
        reply = client.get(f"/v1/users/{user['id']}")
        assert reply.json()["phone"] == user["phone"], reply.text
    else:
        by = "phone" if name == "find by phone" else "email"
        reply = client.get("/v1/users", params={by: user[by]})
        assert [one["id"] for one in reply.json()["items"]] == [int(user["id"])], reply.text
    reply.raise_for_status()


def measured(release: Release, name: str, seconds: float) -> list[float]:
    """Let the clients do one thing again and again; returns the latencies in ms."""
    answers: list[float] = []
    end = time.perf_counter() + seconds

    def work() -> None:
        with release.client() as client:
            act(client, name, release)
            while (began := time.perf_counter()) < end:
                act(client, name, release)
                answers.append((time.perf_counter() - began) * 1000)

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def figures(answers: list[float], seconds: float) -> dict[str, float]:
    """Return p50 and p99 in ms, and requests a second."""
    ordered = sorted(answers)
    p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    return {"p50_ms": p50, "p99_ms": p99, "per_s": len(ordered) / seconds}


@contextmanager
def releases() -> Iterator[tuple[Release, Release]]:
    """Start a server, two databases and a release on each."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        who = account.server_account(Silent())
        clusters = Clusters(folder, 17, account=who, free_port=lambda: ports.free(1)[0])
        cluster = clusters.create()
        started: list[process.ProcessId] = []
        try:
            files.write_atomic(folder / "passphrase", secrets.token_urlsafe(24))
            yield (
                release(cluster.create_database("clear"), folder, "clear", started),
                release(cluster.create_database("encrypted"), folder, "encrypted", started),
            )
        finally:
            for one in started:
                process.stop(one)
            clusters.close()


def release(conninfo: Conninfo, folder: Path, name: str, started: list[process.ProcessId]) -> Release:
    """Fill a database and start a release on it."""
    with connect(conninfo) as admin:
        tenant = dataset.create(admin, Scale.SMALL, seed=7, progress=Silent()).tenants[0]
        own.install(admin)
        if name == "encrypted":
            admin.execute(COLUMNS.encode())
    uri = f"file-kek:{folder}/{{tenant}}.json?passphrase=file:{folder}/passphrase"
    encrypts: dict[str, str] = {}
    if name == "encrypted":
        open_admin(uri, environ={}, tenant=str(tenant.id)).create()
        encrypts = {"APP_KMS": uri, "APP_ENCRYPTED": "phone,email"}
    files.write_atomic(folder / f"{name}.dsn", conninfo.text())
    files.write_atomic(folder / "session", secrets.token_urlsafe(48))
    (port,) = ports.free(1)
    argv: list[str | Path] = [sys.executable, "-m", "uvicorn", "app.main:app", "--app-dir", deployment_folder()]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--no-access-log", "--timeout-keep-alive", "60"]
    told = {
        "APP_DSN": f"file:{folder}/{name}.dsn",
        "APP_SESSION_KEY": f"file:{folder}/session",
        "APP_RATE_PER_S": "1e6",
    }
    started.append(process.spawn(argv, cwd=folder, log=folder / f"{name}.log", env={**told, **encrypts}))
    url = f"http://127.0.0.1:{port}"
    retry.retry(
        lambda: httpx.get(f"{url}/healthz", timeout=5, trust_env=False).raise_for_status(),
        on=(httpx.HTTPError,),
        within_s=30,
        what=f"release {name} to answer",
    )
    made = Release(name, url, tenant, [])
    with made.client() as client:
        for _ in range(200):
            user = new_user()
            reply = client.post("/v1/users", json=user)
            reply.raise_for_status()
            made.known.append({**user, "id": str(reply.json()["id"])})
    return made


def main() -> None:
    """Ask each release for each thing in turn, in each round."""
    asked = arguments(__doc__ or "")
    rounds, seconds = (3, 1.5) if asked.quick else (9, 4.0)
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    with releases() as both:
        for _ in range(rounds):
            for name in ACTS:
                for one in both:
                    found.setdefault((one.name, name), []).append(figures(measured(one, name, seconds), seconds))
    middle: dict[tuple[str, str], dict[str, float]] = {
        key: {figure: median(one[figure] for one in results) for figure in results[0]} for key, results in found.items()
    }
    show(middle, asked.json)


def show(middle: dict[tuple[str, str], dict[str, float]], wants_json: bool) -> None:
    """Print a line an act, and the line of JSON with the ratios."""
    table = Table(title=f"{CLIENTS} clients, encrypted beside in clear", title_justify="left")
    for column in (
        "",
        "p50 ms",
        "encrypted",
        "ratio",
        "p99 ms",
        "encrypted",
        "ratio",
        "requests/s",
        "encrypted",
        "ratio",
    ):
        table.add_column(column, justify="right" if column else "left")
    ratios: dict[str, float] = {}
    for name in ACTS:
        cells = []
        for figure in FIGURES:
            clear, encrypted = middle["clear", name][figure], middle["encrypted", name][figure]
            ratios[f"{name.replace(' ', '_').replace('-', '')}_{figure}_ratio"] = round(encrypted / clear, 2)
            cells += [f"{clear:,.1f}", f"{encrypted:,.1f}", f"{encrypted / clear:.2f}"]
        table.add_row(name, *cells)
    Console().print(table)
    last_line(wants_json, **ratios)


if __name__ == "__main__":
    main()
