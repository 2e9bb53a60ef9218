"""moto's server for the tests, as a process on loopback: it gives the shapes of AWS's answers, and believes anybody."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tests import pausing

from dbsec import process, retry
from dbsec.lab import ports
from dbsec.process import ProcessId

_SERVE = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"


@dataclass(frozen=True)
class Moto:
    """A running server."""

    address: str
    process: ProcessId
    log: Path

    @classmethod
    def start(cls, folder: Path) -> Moto:
        """Start it and wait until it listens."""
        port = ports.free(1)[0]
        log = folder / f"moto-{port}.log"
        argv = [sys.executable, "-W", "ignore", "-c", _SERVE, str(port)]
        server = process.spawn(argv, cwd=folder, log=log, env={"PYTHONPATH": os.pathsep.join(sys.path)})
        retry.wait_until(lambda: ports.taken(port) or not server.alive, within_s=30, what="moto")
        assert server.alive, process.last_lines(log)
        return cls(f"http://127.0.0.1:{port}", server, log)

    def running(self) -> list[ProcessId]:
        return [self.process] if self.process.alive else []

    def pause(self) -> None:
        """Let it answer nothing."""
        pausing.pause(self.process.pid)

    def resume(self) -> None:
        pausing.resume(self.process.pid)

    def stop(self) -> None:
        self.resume()
        process.stop(self.process)
        self.log.unlink()
