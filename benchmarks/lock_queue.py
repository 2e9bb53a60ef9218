"""How many reads stall while an ALTER TABLE waits for one that holds the table: dbsec beside what else is advised.

A session holds the table for 8 s in an idle transaction; meanwhile a migration adds a column, and readers come at a
fixed rate, whether or not those before them were answered. A read is stalled where its answer comes later than 50 ms
after the moment at which it was due. All ways run on the same server, one after the other; each round in another order.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from _bench import arguments, last_line
from rich.console import Console
from rich.table import Table

from dbsec.lab import account, ports
from dbsec.migrations.runner.classify import classify
from dbsec.migrations.runner.execute import execute
from dbsec.migrations.runner.limits import Limits
from dbsec.migrations.schema.catalog import from_catalog
from dbsec.migrations.script import Script
from dbsec.pg import Conninfo, connect
from dbsec.progress import Silent
from dbsec.testing.clusters import Clusters

HELD_S = 8.0
CONTROL_S = 3.0
RATE_PER_S = 300
STALLED_S = 0.05
READERS = 32
ADD = "ALTER TABLE public.items ADD COLUMN {} text"
Migration = Callable[[Conninfo, str], None]


def by_dbsec(server: Conninfo, column: str) -> None:
    """Turns of LOCK TABLE … NOWAIT, then the statement in the same transaction."""
    with connect(server) as session:
        script = Script("add.sql", ADD.format(column))
        (statement,) = classify([script], from_catalog(session), major=17)
        execute(session, statement, Limits())


def by_lock_timeout(server: Conninfo, column: str) -> None:
    """lock_timeout = 2s, and again a second later: the usual advice."""
    with connect(server) as session:
        session.execute("SET lock_timeout = '2s'")
        while True:
            try:
                session.execute(ADD.format(column).encode())
                return
            except psycopg.errors.LockNotAvailable:
                time.sleep(1)


def without_timeout(server: Conninfo, column: str) -> None:
    """The statement as it stands in most files."""
    with connect(server) as session:
        session.execute(ADD.format(column).encode())


def nothing(_server: Conninfo, _column: str) -> None:
    """No migration at all: what this machine stalls by itself."""
    time.sleep(CONTROL_S)


WAYS: dict[str, Migration] = {
    "dbsec": by_dbsec,
    "lock_timeout=2s, retry": by_lock_timeout,
    "no timeout": without_timeout,
    "no migration": nothing,
}


async def read(dsn: str) -> None:
    """Read at the fixed rate until stdin is closed, then print when each read was due and how late it was."""
    queue: asyncio.Queue[float] = asyncio.Queue()
    seen: list[tuple[float, float]] = []

    async def worker() -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as session:
            while True:
                due = await queue.get()
                await session.execute("SELECT payload FROM public.items WHERE id = %s", (random.randint(1, 10_000),))
                seen.append((due, time.monotonic() - due))
                queue.task_done()

    workers = [asyncio.create_task(worker()) for _ in range(READERS)]
    await asyncio.sleep(1)
    print("ready", flush=True)
    closed = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    due = time.monotonic()
    while not closed.done():
        due += 1 / RATE_PER_S
        if (early := due - time.monotonic()) > 0:
            await asyncio.sleep(early)
        queue.put_nowait(due)
    await queue.join()
    for one in workers:
        one.cancel()
    print(json.dumps(seen))


def stalled_share(server: Conninfo, migrate: Migration, column: str) -> tuple[float, float, float]:
    """Run one way; returns the share of stalled reads while it waited, the longest read and how long it took."""
    argv = [sys.executable, __file__, "--reader"]
    environment = {**os.environ, "LOCK_QUEUE_DSN": server.text()}
    reader = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert reader.stdout is not None
    reader.stdout.readline()
    with connect(server) as holder:
        holder.execute("BEGIN")
        holder.execute("SELECT 1 FROM public.items LIMIT 1")
        leaving = threading.Timer(HELD_S, lambda: holder.execute("ROLLBACK"))
        leaving.start()
        began = time.monotonic()
        migrate(server, column)
        ended = time.monotonic()
        if migrate is nothing:
            leaving.cancel()
        leaving.join()
    seen = json.loads(reader.communicate("")[0])
    late = [wait for due, wait in seen if began <= due <= ended]
    return sum(wait > STALLED_S for wait in late) / len(late), max(late), ended - began


def rounds(server: Conninfo, count: int) -> dict[str, list[tuple[float, float, float]]]:
    """Run every way so many times."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in WAYS}
    ways = list(WAYS)
    for turn in range(count):
        for number, name in enumerate(ways[turn % len(ways) :] + ways[: turn % len(ways)]):
            found[name].append(stalled_share(server, WAYS[name], f"c_{turn}_{number}"))
    return found


def show(found: dict[str, list[tuple[float, float, float]]]) -> None:
    """Print the medians."""
    table = Table(title=f"reads at {RATE_PER_S}/s while one holds the table for {HELD_S:g} s", title_justify="left")
    for column in ("", "stalled > 50 ms", "min-max", "longest read", "done after", ""):
        table.add_column(column, justify="left" if not column else "right")
    for name, runs in sorted(found.items(), key=lambda item: median(run[0] for run in item[1])):
        shares, longest, took = zip(*runs, strict=True)
        share = median(shares)
        spread = f"{min(shares):.2%}-{max(shares):.2%}"
        row = (f"{share:.2%}", spread, f"{median(longest) * 1000:,.0f} ms", f"{median(took):.1f} s")
        table.add_row(name, *row, "#" * round(28 * share))
    Console(width=110).print(table)


def main() -> None:
    """Start a server of its own (17, from the wheel) and run the rounds."""
    asked = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        who = account.server_account(Silent())
        clusters = Clusters(folder, 17, account=who, free_port=lambda: ports.free(1)[0])
        try:
            server = clusters.create().create_database("queue")
            with connect(server) as session:
                session.execute("CREATE TABLE public.items (id bigint PRIMARY KEY, payload text)")
                session.execute("INSERT INTO public.items SELECT n, md5(n::text) FROM generate_series(1, 10000) AS n")
                session.execute("VACUUM ANALYZE public.items")
            found = rounds(server, 1 if asked.quick else 3)
        finally:
            clusters.close()
    show(found)
    keys: dict[str, Any] = {
        "stalled_share_dbsec": "dbsec",
        "stalled_share_lock_timeout_2s": "lock_timeout=2s, retry",
        "stalled_share_no_timeout": "no timeout",
        "stalled_share_no_migration": "no migration",
    }
    last_line(asked.json, **{key: round(median(run[0] for run in found[name]), 4) for key, name in keys.items()})


if __name__ == "__main__":
    if "--reader" in sys.argv:
        asyncio.run(read(os.environ["LOCK_QUEUE_DSN"]))
    else:
        main()
