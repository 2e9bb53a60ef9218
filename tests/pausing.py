"""A server that is there and does nothing: the kernel accepts connections, and no answer comes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from dbsec import retry


def pause(pid: int) -> None:
    """Stop a process and wait until none of its threads runs: a signal takes its time."""
    os.kill(pid, signal.SIGSTOP)
    retry.wait_until(lambda: _states(pid) <= set("T"), within_s=10, what=f"process {pid} to stop in its tracks")


def resume(pid: int) -> None:
    """Let it go on."""
    os.kill(pid, signal.SIGCONT)


def _states(pid: int) -> set[str]:
    stats = [task.joinpath("stat") for task in Path(f"/proc/{pid}/task").iterdir()]
    return {stat.read_text().rpartition(")")[2].split()[0] for stat in stats}
