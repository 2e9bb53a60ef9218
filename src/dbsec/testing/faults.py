"""Kill a job at every edge of its journal, resume it, and let the caller judge what is left.

A job is named ``module:function``; the function takes a folder and an observer, and works over a journal in there.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbsec import process
from dbsec.errors import ProgramError
from dbsec.journal import Edge, Observer

Death = tuple[str, Edge]


def kill_at(step: str, edge: Edge) -> Observer:
    """Make an observer that ends its own process by SIGKILL at one edge: nothing is flushed, nothing is cleaned up."""

    def observe(seen: str, at: Edge) -> None:
        if (seen, at) == (step, edge):
            os.kill(os.getpid(), signal.SIGKILL)

    return observe


@dataclass(frozen=True, slots=True)
class Job:
    """A job and how to run it. ``prepare`` makes a new folder ready; ``search`` are folders for the child's imports."""

    name: str
    prepare: Callable[[Path], None] | None = None
    search: Sequence[Path] = ()
    timeout_s: float = 120

    def run(self, folder: Path, *argv: str) -> bool:
        """Run it in a child; False where the child died by SIGKILL. Errors: ``ProgramError`` for any other end."""
        command: list[str | Path] = [sys.executable, "-P", "-m", __name__, self.name, folder, *argv]
        env = {"PYTHONPATH": os.pathsep.join(map(str, self.search))} if self.search else None
        try:
            process.run(command, cwd=folder, env=env, timeout_s=self.timeout_s)
        except ProgramError as exc:
            if exc.code == -signal.SIGKILL and argv:
                return False
            raise
        return True

    def fresh(self, folder: Path) -> Path:
        """Make a folder for one life of the job."""
        folder.mkdir(mode=0o700)
        if self.prepare is not None:
            self.prepare(folder)
        return folder


def survives_kill_at_every_step(
    job: Job, *, scratch: Path, check: Callable[[Path], None], steps: Collection[str] | None = None
) -> list[Death]:
    """Run ``job`` whole, then once for each edge: killed there, run again, judged by ``check(folder)``.

    Each life has its own folder in ``scratch``. ``steps`` limits it to some; None is all that the whole run shows.
    Returns the deaths that were died. Errors: ``ProgramError`` for a job that fails unkilled, ``AssertionError`` for an
    edge that was not reached, and what ``check`` raises.
    """
    whole, trace = job.fresh(scratch / "whole"), scratch / "edges"
    trace.touch()
    job.run(whole, str(trace))
    check(whole)
    deaths = [death for death in _read(trace) if steps is None or death[0] in steps]
    missed = set(steps or ()) - {step for step, _ in deaths}
    assert deaths, f"job '{job.name}' has no step to be killed at"
    assert not missed, f"job '{job.name}' never reached {sorted(missed)}"
    for number, (step, edge) in enumerate(deaths, 1):
        folder = job.fresh(scratch / f"{number}-{edge}")
        survived = job.run(folder, step, edge)
        assert not survived, f"'{step}' {edge} was not reached in another run"
        job.run(folder)
        check(folder)
    return deaths


def _read(trace: Path) -> list[Death]:
    lines = (line.rpartition(" ") for line in trace.read_text().splitlines())
    return [(step, Edge(edge)) for step, _, edge in lines]


def _write(trace: Path) -> Observer:
    def observe(step: str, edge: Edge) -> None:
        with trace.open("a") as stream:
            stream.write(f"{step} {edge}\n")

    return observe


def _child(job: str, folder: str, *argv: str) -> None:
    """Run a job as the parent asked: until an edge (STEP EDGE), with its edges told (FILE), or plainly."""
    module, _, function = job.partition(":")
    observer = None
    if len(argv) == 1:
        observer = _write(Path(argv[0]))
    elif argv:
        observer = kill_at(argv[0], Edge(argv[1]))
    getattr(importlib.import_module(module), function)(Path(folder), observer)


if __name__ == "__main__":
    _child(*sys.argv[1:])
