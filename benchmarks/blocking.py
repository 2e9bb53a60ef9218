"""How fast PostgreSQL rewrites, scans, checks and builds: the rates by which a verdict is turned into seconds.

Their home is ``Rates`` in src/dbsec/migrations/stats.py. A server of its own (17, from the wheel) with fsync on.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import psycopg
from _bench import arguments, last_line
from rich.console import Console
from rich.table import Table

from dbsec.lab import account, ports
from dbsec.pg import connect
from dbsec.progress import Silent
from dbsec.testing.clusters import Clusters

_MIB = 1 << 20
_MADE = """
CREATE TABLE parent (id bigint PRIMARY KEY);
INSERT INTO parent SELECT generate_series(1, {rows} / 10);
CREATE TABLE t (id bigint PRIMARY KEY, tenant int NOT NULL, parent_id bigint NOT NULL, email text NOT NULL,
                phone text, balance numeric, made timestamptz NOT NULL);
INSERT INTO t SELECT n, n % 97, n % ({rows} / 10) + 1, md5(n::text) || '@example.org', '+49' || n, n / 7.0, now()
FROM generate_series(1, {rows}) AS n;
CREATE INDEX t_email ON t (email);
VACUUM ANALYZE t;
CHECKPOINT;
"""


def seconds(connection: psycopg.Connection[object], *statements: str) -> float:
    """Run statements and return how long they took."""
    start = time.perf_counter()
    for statement in statements:
        connection.execute(statement)
    return time.perf_counter() - start


def measured(connection: psycopg.Connection[object], rows: int) -> dict[str, float]:
    """Make the table, and return the rates of one round by the names of ``Rates``."""
    connection.execute("DROP TABLE IF EXISTS t, parent")
    for statement in _MADE.format(rows=rows).split(";"):
        if statement.strip():
            connection.execute(statement)
    size, indexes = connection.execute("SELECT pg_table_size('t'), pg_indexes_size('t')").fetchone()
    scan = seconds(connection, "ALTER TABLE t ADD CONSTRAINT c CHECK (tenant >= 0)")
    fk = seconds(connection, "ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (parent_id) REFERENCES parent")
    build = seconds(connection, "CREATE INDEX t_phone ON t (phone)")
    connection.execute("DROP INDEX t_phone")
    again = seconds(connection, "REINDEX TABLE t")
    connection.execute("ALTER TABLE t DROP CONSTRAINT t_pkey; DROP INDEX t_email")
    connection.execute("ALTER TABLE t DROP CONSTRAINT c, DROP CONSTRAINT f")
    rewrite = seconds(connection, "ALTER TABLE t ALTER COLUMN tenant TYPE bigint")
    write = seconds(connection, "UPDATE t SET balance = balance + 1")
    return {
        "rewrite_bytes": size / rewrite,
        "scan_bytes": size / scan,
        "fk_rows": rows / fk,
        "build_rows": rows / build,
        "index_bytes": indexes / again,
        "write_rows": rows / write,
    }


def main() -> None:
    """Print the median of the rounds."""
    asked = arguments(__doc__ or "")
    rounds, rows = (2, 100_000) if asked.quick else (5, 1_000_000)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        who = account.server_account(Silent())
        clusters = Clusters(folder, 17, account=who, free_port=lambda: ports.free(1)[0])
        try:
            cluster = clusters.create(fsync="on", shared_buffers="128MB", max_wal_size="4GB")
            with connect(cluster.create_database("blocking")) as connection:
                seen = [measured(connection, rows) for _ in range(rounds)]
        finally:
            clusters.close()
    rates = {name: median(one[name] for one in seen) for name in seen[0]}
    table = Table(title=f"work of one session on {rows:,} rows, {os.cpu_count()} cores", title_justify="left")
    for column in ("", "median a second", "min", "max"):
        table.add_column(column, justify="left" if not column else "right")
    for name, rate in rates.items():
        scale, unit = (_MIB, " MiB") if name.endswith("bytes") else (1, "")
        values = [one[name] / scale for one in seen]
        table.add_row(name, f"{rate / scale:,.0f}{unit}", f"{min(values):,.0f}", f"{max(values):,.0f}")
    Console().print(table)
    last_line(asked.json, rows=rows, **{f"{name}_per_s": round(rate) for name, rate in rates.items()})


if __name__ == "__main__":
    main()
