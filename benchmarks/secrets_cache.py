"""What a cache of secrets costs and survives: dbsec, aws-secretsmanager-caching, cachetools and no cache.

100 threads read one secret with a time to live of 1 s; the backend takes 100 ms and is away for 2 s. Each cache has its
own process and takes its turn alone. A hit is a read that succeeded after the first second; percentiles are of those.
The cache of AWS fetches twice for a value (describe_secret, get_secret_value), and each counts. "A constant" reads
nothing: what it takes is the load's own, of 100 threads on the machine's cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

from _bench import arguments, last_line, peer
from _secrets_turn import PEERS, TTL_S, Backend, load
from rich.console import Console
from rich.table import Table

from dbsec.secrets import Cached, Policy

HERE = Path(__file__).resolve().parent
OURS, NONE, FLOOR = "dbsec", "no cache", "a constant"
Figures = dict[str, float]


def main() -> None:
    """Let all take turns, and print."""
    given = arguments(__doc__ or "")
    turns = 1 if given.quick else 3
    found: dict[str, list[Figures]] = {name: [] for name in (OURS, *PEERS, NONE, FLOOR)}
    for _ in range(turns):
        for name, runs in found.items():
            runs.append(turn(name, last_s=6))
    figures = {name: {key: median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}
    show(figures, turns)
    ours = figures[OURS]
    last_line(
        given.json,
        backend_calls=ours["backend_calls"],
        failed_reads=max(run["failed_reads"] for run in found[OURS]),
        hit_p99_us=round(ours["hit_p99_us"], 1),
        **{
            f"{key}_{name.replace(' ', '_')}": round(told[key], 1)
            for name, told in figures.items()
            if name != OURS
            for key in ("backend_calls", "failed_reads", "hit_p99_us")
        },
    )


def turn(name: str, *, last_s: float) -> Figures:
    """Run one in a process of its own and return what it measured."""
    python = peer("secrets-cache") / "python" if name in PEERS else Path(sys.executable)
    script = HERE / ("_secrets_turn.py" if name in PEERS else "secrets_cache.py")
    argv = [python, script, *([] if name in PEERS else ["turn"]), name, str(last_s)]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    told: Figures = json.loads(done.stdout)
    return told


def own_turn(name: str, last_s: float) -> None:
    """Be the process of dbsec's cache, of none, or of a constant."""
    source = Backend()
    cache = Cached("db", source, Policy(ttl_s=TTL_S, stale_s=10))
    read: Callable[[], object] = {OURS: cache.get, NONE: source, FLOOR: lambda: "secret"}[name]
    print(json.dumps(load(read, source, last_s=last_s)))


def show(figures: dict[str, Figures], turns: int) -> None:
    """Print a row for each."""
    table = Table(title=f"100 threads, an outage of 2 s; medians of {turns}", title_justify="left")
    for column in ("", "backend calls", "failed reads", "hit p50 us", "hit p99 us", "max ms"):
        table.add_column(column, justify="right" if column else "left")
    for name, told in figures.items():
        times = (f"{told['hit_p50_us']:.1f}", f"{told['hit_p99_us']:.1f}", f"{told['hit_max_us'] / 1000:.1f}")
        table.add_row(name, f"{told['backend_calls']:.0f}", f"{told['failed_reads']:.0f}", *times)
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["turn"]:
        own_turn(sys.argv[2], float(sys.argv[3]))
    else:
        main()
