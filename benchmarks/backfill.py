"""What a backfill costs the live service, and how long it takes: dbsec beside the single UPDATE and fixed batches.

A server of its own (17, from the wheel) with fsync on; a table with an index beside its key; a service that asks at a
fixed rate (open loop: waiting counts), one in five requests an update. Each way has a fresh table in each round. The
peers are shapes, not products: 10,000 rows and 10 ms of sleep is strong_migrations' advice, 1,000 rows without a sleep
is pgroll's default.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from _bench import arguments, last_line
from rich.console import Console
from rich.table import Table

from dbsec import backfill
from dbsec.backfill import Job
from dbsec.backfill.limits import ThrottleLimits
from dbsec.backfill.throttle import Throttle
from dbsec.lab import account, ports
from dbsec.pg import Conninfo, connect, own
from dbsec.progress import Silent
from dbsec.testing.clusters import Clusters

TABLE = "bench.items"
SET = "amount_new = amount * 1.25"
RATE, SESSIONS = 300, 8
MADE = """
DROP TABLE IF EXISTS bench.items;
CREATE TABLE bench.items (id bigint PRIMARY KEY, owner int NOT NULL, amount int NOT NULL, touched int NOT NULL,
                          payload text NOT NULL, amount_new numeric);
INSERT INTO bench.items SELECT n, n % 9973, n % 1000, 0, repeat(md5(n::text), 3) FROM generate_series(1, {rows}) n;
CREATE INDEX items_owner ON bench.items (owner);
VACUUM (ANALYZE) bench.items;
CHECKPOINT
"""
Way = Callable[[Conninfo, int], None]


def by_dbsec(conninfo: Conninfo, rows: int) -> None:
    """Run the job that a team would write, with the limits that dbsec has by default."""
    open_one = partial(connect, conninfo)
    job = Job(name="bench", table=TABLE, key=("id",), set=SET, where="amount_new IS NULL")
    with Throttle(ThrottleLimits(), open_one, table=TABLE) as throttle:
        done = backfill.run(open_one, job, throttle=throttle)
    if done.status.changed != rows:
        raise SystemExit(f"dbsec wrote {done.status.changed} of {rows} rows")
    with connect(conninfo) as admin:
        backfill.forget(admin, "bench")


def by_one_update(conninfo: Conninfo, _: int) -> None:
    """Write all rows in one statement."""
    with connect(conninfo, application_name="peer") as session:
        session.execute(f"UPDATE {TABLE} SET {SET} WHERE amount_new IS NULL".encode())


def by_batches(size: int, sleep_s: float, conninfo: Conninfo, rows: int) -> None:
    """Write windows of the key of a fixed size with a fixed pause between."""
    with connect(conninfo, application_name="peer") as session:
        for low in range(0, rows, size):
            window = f"id > {low} AND id <= {low + size}"
            session.execute(f"UPDATE {TABLE} SET {SET} WHERE {window} AND amount_new IS NULL".encode())
            time.sleep(sleep_s)


WAYS: dict[str, Way] = {
    "dbsec": by_dbsec,
    "single UPDATE": by_one_update,
    "10,000 rows, sleep 10 ms": partial(by_batches, 10_000, 0.01),
    "1,000 rows, no sleep": partial(by_batches, 1_000, 0),
    "1,000 rows, sleep 100 ms": partial(by_batches, 1_000, 0.1),
}


@contextmanager
def serving(conninfo: Conninfo, rows: int, answers: list[tuple[float, float]]) -> Iterator[None]:
    """Let the service run; ``answers`` has its latencies in the end."""
    argv = [sys.executable, Path(__file__).with_name("_service.py"), TABLE, str(rows), str(RATE), str(SESSIONS)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        child.stdin.write(conninfo.text() + "\n")
        child.stdin.flush()
        try:
            yield
        finally:
            told, _ = child.communicate()
            answers += [tuple(one) for one in json.loads(told)]


def measured(conninfo: Conninfo, way: Way, rows: int, before_s: float) -> dict[str, float]:
    """Return rows a second, and the service's 99th percentile and maximum during it over those of before."""
    with connect(conninfo) as admin:
        for statement in MADE.format(rows=rows).split(";"):
            admin.execute(statement.encode())
    answers: list[tuple[float, float]] = []
    with serving(conninfo, rows, answers):
        time.sleep(before_s + 1)  # the first second warms connections and cache
        begin = time.monotonic()
        way(conninfo, rows)
        end = time.monotonic()
    before = [ms for due, ms in answers if begin - before_s <= due < begin]
    during = [ms for due, ms in answers if begin <= due < end]
    found = {"before": p99(before), "during": p99(during), "max": max(during), "rows_per_s": rows / (end - begin)}
    return {**found, "ratio": found["during"] / found["before"]}


def p99(values: list[float]) -> float:
    """Return the 99th percentile."""
    return sorted(values)[int(len(values) * 0.99)]


def main() -> None:
    """Measure each way in turn, in each round."""
    asked = arguments(__doc__ or "")
    rounds, rows, before_s = (1, 200_000, 2.0) if asked.quick else (3, 1_000_000, 5.0)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS if not (asked.quick and "1,000 " in name)}
    with own_server() as conninfo:
        for _ in range(rounds):
            for name, results in found.items():
                results.append(measured(conninfo, WAYS[name], rows, before_s))
                print(f"{name}: {results[-1]}", file=sys.stderr)
    show({name: middle(results) for name, results in found.items()}, rows, rounds, asked.json)


@contextmanager
def own_server() -> Iterator[Conninfo]:
    """Start a server with a durable log, and a database with schema dbsec."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        clusters = Clusters(folder, 17, account=account.server_account(Silent()), free_port=lambda: ports.free(1)[0])
        try:
            cluster = clusters.create(fsync="on", shared_buffers="256MB", max_wal_size="4GB")
            conninfo = cluster.create_database("bench")
            with connect(conninfo) as admin:
                own.install(admin)
                admin.execute("CREATE SCHEMA bench")
            yield conninfo
        finally:
            clusters.close()


def middle(results: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each number over the rounds."""
    return {name: median(one[name] for one in results) for name in results[0]}


def show(found: dict[str, dict[str, float]], rows: int, rounds: int, wants_json: bool) -> None:
    """Print a line a way, and the line of JSON."""
    table = Table(title=f"{rows:,} rows, {RATE} requests/s, median of {rounds}", title_justify="left")
    for column in ("", "rows/s", "p99 before, ms", "p99 during, ms", "during / before", "max, ms"):
        table.add_column(column, justify="right" if column else "left")
    for name, one in found.items():
        shown = [f"{one['rows_per_s']:,.0f}", *(f"{one[key]:.1f}" for key in ("before", "during", "ratio", "max"))]
        table.add_row(name, *shown)
    Console().print(table)
    ours, single = found["dbsec"], found["single UPDATE"]
    peers = {
        name: {
            "rows_per_second": round(one["rows_per_s"]),
            "service_p99_ratio_during_to_before": round(one["ratio"], 2),
        }
        for name, one in found.items()
        if name != "dbsec"
    }
    last_line(
        wants_json,
        rows_per_second=round(ours["rows_per_s"]),
        rows_per_second_ratio_vs_single_update=round(ours["rows_per_s"] / single["rows_per_s"], 2),
        service_p99_ratio_during_to_before=round(ours["ratio"], 2),
        service_p99_ratio_vs_single_update=round(ours["during"] / single["during"], 3),
        peers=peers,
    )


if __name__ == "__main__":
    main()
