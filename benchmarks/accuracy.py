"""How often the linter is right: dbsec beside squawk, on the statements whose truth PostgreSQL told (the fact base).

A statement is harmful where it scans, builds or rewrites under a lock that makes others wait (measured), or where its
label, proven by the fact base's tests, says that it breaks the running release or loses data. Caught: an error of dbsec
(it gets the schema), any finding of squawk (it takes none); squawk's rules of style and for timeouts are left out.
"""

from __future__ import annotations

import copy
import json
import subprocess
import tempfile
from pathlib import Path

from _bench import arguments, last_line, peer
from rich.console import Console
from rich.table import Table

from dbsec.findings import Severity
from dbsec.migrations import facts
from dbsec.migrations.facts import cases
from dbsec.migrations.linter import Options, lint
from dbsec.migrations.schema.dump import from_dump
from dbsec.migrations.script import Script

MAJOR = 18
STYLE = (
    *("prefer-bigint-over-int", "prefer-bigint-over-smallint", "prefer-identity", "prefer-robust-stmts"),
    *("prefer-text-field", "prefer-timestamp-tz", "require-timeout-settings", "require-lock-timeout"),
    *("require-statement-timeout", "require-table-schema", "prefer-repack", "ban-char-field", "identifier-too-long"),
)


def ours(case: cases.Case) -> bool:
    """Tell whether dbsec gives the case an error."""
    schema, _ = from_dump(cases.schema_sql() + case.setup, source="schema.sql")
    result = lint([Script(f"{case.id}.sql", case.sql)], schema=copy.deepcopy(schema), options=Options(MAJOR))
    return any(finding.severity is Severity.ERROR for finding in result.findings)


def theirs(program: Path, chosen: list[cases.Case]) -> set[str]:
    """Name the cases in which squawk finds anything."""
    with tempfile.TemporaryDirectory() as scratch:
        for case in chosen:
            Path(scratch, f"{case.id}.sql").write_text(case.sql.rstrip().rstrip(";") + ";\n")
        argv = [program, "--reporter", "json", "--pg-version", "18.0", "--exclude", ",".join(STYLE)]
        ended = subprocess.run([*argv, *sorted(Path(scratch).iterdir())], capture_output=True, text=True)
    return {Path(found["file"]).stem for found in json.loads(ended.stdout)}


def main() -> None:
    """Judge every case that has a verdict."""
    asked = arguments(__doc__ or "")
    measured = facts.load(MAJOR)["cases"]
    chosen = [case for case in cases.every() if measured.get(case.id, {}).get("harmful") is not None]
    harmful = {case.id for case in chosen if measured[case.id]["harmful"]}
    harmless = {case.id for case in chosen} - harmful
    caught = {
        "dbsec": {case.id for case in chosen if ours(case)},
        "squawk": theirs(peer("squawk-cli") / "squawk", chosen),
    }
    table = Table(title=f"{len(chosen)} measured cases, PostgreSQL {MAJOR}", title_justify="left")
    for title in ("", f"harmful, caught of {len(harmful)}", f"harmless, refused of {len(harmless)}"):
        table.add_column(title, justify="right" if title else "left")
    for name, found in caught.items():
        table.add_row(name, str(len(found & harmful)), str(len(found & harmless)))
    Console().print(table)
    if missed := sorted(harmful - caught["dbsec"]):
        print("dbsec misses:", *missed)
    if false := sorted(harmless & caught["dbsec"]):
        print("dbsec refuses though harmless:", *false)
    last_line(
        asked.json,
        harmful=len(harmful),
        harmless=len(harmless),
        **{f"{name}_caught": len(found & harmful) for name, found in caught.items()},
        **{f"{name}_refused_harmless": len(found & harmless) for name, found in caught.items()},
        ratio_of_wrong_verdicts=round((len(harmful ^ caught["dbsec"])) / max(1, len(harmful ^ caught["squawk"])), 3),
    )


if __name__ == "__main__":
    main()
