"""The customer's worst day: a DELETE without WHERE at a known moment, and the copy from just before it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.backup_bed import make_kek

from dbsec.lab import ports
from dbsec.pg import connect
from dbsec.retry import wait_until
from dbsec.testing.clusters import Cluster

PITR = Path(__file__).resolve().parents[2] / "db" / "pitr" / "restore.sh"
CONFIG = """
[backup]
store = "file://{folder}/store"
kms = "{kms}"
dsn = "env:DSN"
"""
SUMS = "SELECT count(*), md5(string_agg(id || ':' || amount, ',' ORDER BY id)) FROM orders"


@dataclass
class Customer:
    """The command line, in a folder with our dbsec.toml; ``environ`` has what it refers to."""

    folder: Path
    cluster: Cluster
    environ: dict[str, str]

    def run(self, *argv: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "dbsec", "backup", *map(str, argv)],
            cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def result(self, *argv: str | Path) -> Any:
        return json.loads(self.run(*argv, "--format", "json").stdout)["result"]

    @contextmanager
    def archiver(self) -> Iterator[Path]:
        """Run the resident process, as a service would."""
        socket = self.folder / "wal.sock"
        argv = [sys.executable, "-m", "dbsec", "backup", "wal", "archiver", "--socket", str(socket)]
        account = self.cluster.account
        words = [] if account.is_current else ["--account", account.name]
        with subprocess.Popen([*argv, *words], cwd=self.folder, env=self.environ, stderr=subprocess.PIPE) as process:
            try:
                wait_until(socket.exists, within_s=30, what="the archiver")
                yield socket
            finally:
                process.terminate()
                process.communicate(timeout=30)


@pytest.fixture
def customer(cluster_factory: Callable[..., Cluster], server_root: Path) -> Iterator[Customer]:
    folder = server_root / f"customer-{os.getpid()}"
    (folder / "store").mkdir(parents=True)
    cluster = cluster_factory(archive_mode="on", autovacuum="off")
    environ = {**os.environ, "KEK": "a passphrase of this test", "DSN": cluster.admin.text(), "HOME": str(folder)}
    (folder / "dbsec.toml").write_text(CONFIG.format(folder=folder, kms=make_kek(folder / "kek.json", environ)))
    if not cluster.account.is_current:
        os.chown(folder, cluster.account.uid, cluster.account.gid)
    yield Customer(folder, cluster, environ)
    cluster.instance.stop()
    shutil.rmtree(folder)


def test_just_before_the_accident(customer: Customer) -> None:
    cluster = customer.cluster
    customer.run("init")
    with customer.archiver() as socket, connect(cluster.admin) as session:
        client = customer.result(
            "wal", "client", customer.folder, "--socket", socket,
            *([] if cluster.account.is_current else ["--account", cluster.account.name]),
        )  # fmt: skip
        cluster.instance.configure({"archive_command": client["archive_command"]})
        cluster.instance.reload()
        session.execute("CREATE TABLE orders (id int PRIMARY KEY, amount numeric)")
        session.execute("INSERT INTO orders SELECT i, i * 1.5 FROM generate_series(1, 5000) i")
        backup = customer.result("take")["id"]
        session.execute("INSERT INTO orders SELECT i, i * 2.5 FROM generate_series(5001, 7000) i")
        before = session.execute(SUMS).fetchone()
        time.sleep(0.01)
        moment = datetime.now(UTC)
        time.sleep(0.01)
        session.execute("DELETE FROM orders")
        session.execute("INSERT INTO orders VALUES (1, 0)")
        (segment,) = session.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone() or ("",)
        wait_until(
            lambda: (
                session.execute("SELECT last_archived_wal >= %s FROM pg_stat_archiver", [segment]).fetchone() == (True,)
            ),
            within_s=30,
            what="the archiver",
        )

        copy = customer.folder / "copy"
        (port,) = ports.free(1)
        owner = [] if cluster.account.is_current else ["--owner", cluster.account.name]
        words = ["restore", "--to", copy, "--time", moment.isoformat(), "--socket", socket, "--port", port, *owner]
        words += ["--bindir", cluster.instance.binaries.folder]
        planned = customer.run(*words, "--dry-run").stdout
        assert backup in planned
        assert "unknown: nothing was restored" in planned
        assert not copy.exists()

        script = [PITR, "sealed", customer.folder / "dbsec.toml", copy, moment.isoformat(), *owner, "--dry-run"]
        fronted = subprocess.run(
            ["/bin/sh", *map(str, script)],
            env={**customer.environ, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (fronted.returncode, backup in fronted.stdout) == (0, True), fronted.stderr

        done = customer.run(*words, "--format", "json")
        told = json.loads(done.stdout)["result"]
        assert (told["chain"], told["verified"], told["restored"]) == ([backup], True, True)
        assert told["next"][-1].endswith("start")
        assert "is not empty" in customer.run(*words, code=2).stderr
        assert _sums(customer, copy, port) == before
        assert session.execute("SELECT count(*) FROM orders").fetchone() == (1,)
        assert "does not say that it is a copy" in customer.run("scramble-passwords", "--apply", code=2).stderr

        late = customer.run(
            "restore", "--to", customer.folder / "late", "--time", "2020-01-01T00:00:00Z", *owner, code=2
        )
        assert backup in late.stderr
        assert not (customer.folder / "late").exists()


def _sums(customer: Customer, copy: Path, port: int) -> Any:
    """Start the copy, let it recover, and sum up."""
    instance = replace(customer.cluster.instance, data=copy, port=port, log=copy.with_name("copy.log"))
    instance.start()
    try:
        with connect(customer.cluster.admin.but(port=port)) as session:
            wait_until(
                lambda: session.execute("SELECT pg_is_in_recovery()").fetchone() == (False,),
                within_s=30,
                what="the promotion",
            )
            return session.execute(SUMS).fetchone()
    finally:
        instance.destroy()
