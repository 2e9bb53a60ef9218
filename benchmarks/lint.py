"""How long the linter of migrations takes: dbsec beside squawk, on one file and on 1,000.

A pre-commit hook lints one file, CI lints them all. Both read the same files from disk and write JSON; squawk gets the
version of the server, dbsec too. The files hold about 300 bytes and 5 statements each, harmful and harmless.
"no judgement" is Python that reads and parses the same files, and judges nothing: any linter in Python starts there.
"""

from __future__ import annotations

import compileall
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from _bench import arguments, last_line, peer, show

SOURCES = Path(__file__).parents[1] / "src"
STATEMENTS = (
    "ALTER TABLE {t} ADD COLUMN {c} text;",
    "ALTER TABLE {t} ADD COLUMN {c} timestamptz NOT NULL DEFAULT now();",
    "ALTER TABLE {t} ADD COLUMN {c} uuid DEFAULT gen_random_uuid();",
    "CREATE INDEX CONCURRENTLY {t}_{c}_idx ON {t} ({c});",
    "CREATE INDEX {t}_{c}_idx ON {t} ({c}) WHERE {c} IS NOT NULL;",
    "ALTER TABLE {t} ADD CONSTRAINT {t}_{c}_fk FOREIGN KEY ({c}) REFERENCES accounts (id) NOT VALID;",
    "ALTER TABLE {t} VALIDATE CONSTRAINT {t}_{c}_fk;",
    "ALTER TABLE {t} ALTER COLUMN {c} TYPE bigint USING {c}::bigint;",
    "ALTER TABLE {t} ALTER COLUMN {c} SET NOT NULL;",
    "SET lock_timeout = '500ms';",
    "CREATE TABLE {t}_{c} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {c} text NOT NULL, at timestamptz);",
    "UPDATE {t} SET {c} = 0 WHERE id BETWEEN 1 AND 1000 AND {c} IS NULL;",
    "ALTER TABLE {t} ADD CONSTRAINT {t}_{c}_check CHECK ({c} > 0) NOT VALID, ALTER COLUMN {c} SET DEFAULT 1;",
    "DROP INDEX CONCURRENTLY IF EXISTS {t}_{c}_idx;",
    "COMMENT ON COLUMN {t}.{c} IS 'what the ledger calls it';",
    "GRANT SELECT ON {t} TO app_readonly;",
    "CREATE POLICY {t}_{c} ON {t} USING (tenant_id = current_setting('app.tenant')::bigint);",
)
PARSES = """
import pathlib, sys, msgspec
from dbsec.migrations.reading.libpg import parser
parse, decode = parser().parse_sql_json, msgspec.json.decode
for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    decode(parse(file.read_text()))
"""
TABLES = ("users", "orders", "invoices", "payments", "sessions", "devices", "ledger", "tenants")
COLUMNS = ("phone", "email", "amount", "region", "status", "owner_id", "due_at", "kind", "score", "note")


def write_files(folder: Path, count: int) -> None:
    """Write ``count`` migrations, the same ones each time."""
    rng = random.Random(20261123)
    for number in range(count):
        chosen = rng.sample(STATEMENTS, 5)
        lines = [line.format(t=rng.choice(TABLES), c=f"{rng.choice(COLUMNS)}_{number}") for line in chosen]
        (folder / f"{number:04}_change.sql").write_text("\n".join(lines) + "\n")


def timed(argv: list[str | Path]) -> float:
    """Run a linter once; returns milliseconds of wall time. Exit code 1 means findings, and these files have some."""
    start = time.perf_counter()
    ended = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    elapsed = (time.perf_counter() - start) * 1000
    if ended.returncode not in (0, 1):
        raise SystemExit(f"{argv[0]} ended with {ended.returncode}: {ended.stderr[-400:]}")
    return elapsed


def main() -> None:
    """Run both in turn, so that a noisy neighbour disturbs them alike."""
    asked = arguments(__doc__ or "")
    compileall.compile_dir(SOURCES, quiet=1)  # as an installed dbsec is, PYTHONDONTWRITEBYTECODE or not
    ours: list[str | Path] = [Path(sys.executable).parent / "dbsec", "migrate", "lint", "--format", "json"]
    theirs: list[str | Path] = [peer("squawk-cli") / "squawk", "--reporter", "json", "--pg-version", "17.0"]
    one: dict[str, list[float]] = {"dbsec": [], "squawk": []}
    many: dict[str, list[float]] = {"dbsec": [], "squawk": [], "no judgement": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_files(folder, 1000)
        files = sorted(folder.iterdir())
        for _ in range(7 if asked.quick else 25):
            one["dbsec"].append(timed([*ours, "--pg-version", "17", files[0]]))
            one["squawk"].append(timed([*theirs, files[0]]))
            many["dbsec"].append(timed([*ours, "--pg-version", "17", folder]))
            many["squawk"].append(timed([*theirs, *files]))
            many["no judgement"].append(timed([sys.executable, "-c", PARSES, folder]))
    show("one file", "ms", one, ours="dbsec")
    ratios = show("1,000 files, 5,000 statements", "ms", many, ours="dbsec")
    last_line(
        asked.json,
        one_file_ms=round(median(one["dbsec"])),
        wall_ratio_1000_files_vs_squawk=round(ratios["squawk"], 2),
        parse_alone_ratio_vs_squawk=round(median(many["no judgement"]) / median(many["squawk"]), 2),
    )


if __name__ == "__main__":
    main()
