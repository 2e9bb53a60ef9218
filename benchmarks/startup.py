"""How long until ``--help`` is on the screen: dbsec beside tools that a database engineer runs as often.

A command that lints in a pre-commit hook pays its start each time.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from _bench import arguments, last_line, peer, show


def help_ms(program: Path) -> float:
    """Run ``program --help`` once; returns milliseconds of wall time."""
    start = time.perf_counter()
    subprocess.run([program, "--help"], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1000


def main() -> None:
    """Run the programs in turn, so that a noisy neighbour disturbs all alike."""
    asked = arguments(__doc__ or "")
    programs = {
        "dbsec": Path(sys.executable).parent / "dbsec",
        "alembic": peer("alembic") / "alembic",
        "sslyze": peer("sslyze") / "sslyze",
    }
    timings: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(5 if asked.quick else 25):
        for name, program in programs.items():
            timings[name].append(help_ms(program))
    ratios = show("time to --help", "ms", timings, ours="dbsec")
    last_line(
        asked.json,
        help_ms=sorted(timings["dbsec"])[len(timings["dbsec"]) // 2],
        **{f"ratio_to_{name}": round(ratio, 3) for name, ratio in ratios.items()},
    )


if __name__ == "__main__":
    main()
