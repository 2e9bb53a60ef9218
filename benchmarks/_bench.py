"""What every benchmark shares: its two flags, a peer's own environment, a table with bars, one line of JSON last."""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import venv
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
_CACHE = ROOT / ".benchmarks"


def arguments(doc: str) -> argparse.Namespace:
    """Parse ``--quick`` (ends within 45 s) and ``--json`` (one line of JSON comes last)."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds; ends within 45 s")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    return parser.parse_args()


def peer(name: str) -> Path:
    """Return the ``bin`` folder of a peer's own environment, made once from ``benchmarks/peers/NAME.txt``.

    Apart from ours: a peer's dependencies would otherwise move dbsec's own, and falsify the ratio.
    """
    lock = ROOT / "benchmarks/peers" / f"{name}.txt"
    folder = _CACHE / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not (folder / "ready").exists():
        print(f"making the environment of {name}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        install = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--require-hashes", "-r", lock]
        subprocess.run(install, check=True, stdout=sys.stderr)
        (folder / "ready").touch()
    return folder / "bin"


def show(title: str, unit: str, timings: dict[str, list[float]], *, ours: str) -> dict[str, float]:
    """Print medians as a table with bars; returns ours divided by each peer's, by name (below 1: we are faster)."""
    console = Console()
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column(f"median {unit}", justify="right")
    table.add_column("min-max", justify="right")
    table.add_column("ours / it", justify="right")
    table.add_column("")
    medians = {name: median(values) for name, values in timings.items()}
    longest = max(medians.values())
    for name, value in sorted(medians.items(), key=lambda item: item[1]):
        spread = f"{min(timings[name]):.0f}-{max(timings[name]):.0f}"
        bar = "#" * max(1, round(28 * value / longest))
        table.add_row(name, f"{value:.0f}", spread, f"{medians[ours] / value:.2f}", bar)
    console.print(table)
    return {name: medians[ours] / value for name, value in medians.items() if name != ours}


def last_line(enabled: bool, **keys: object) -> None:
    """Print the one line of JSON, where it was asked for."""
    if enabled:
        print(json.dumps(keys))
