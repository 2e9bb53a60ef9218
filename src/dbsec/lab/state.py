"""``lab.json``: what runs where, written as each server starts, so that a later run can stop what a killed one left."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from dbsec import files, process
from dbsec.errors import LabError, NewerFormat
from dbsec.process import ProcessId

MAGIC = "dbsec-lab"
FORMAT = 1
TOKEN = "DBSEC_LAB_ID"  # noqa: S105 the name of a mark in the environment of the lab's children, no credential


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """One process of the lab. ``ladder`` is the signals that stop it with their patience in seconds.

    ``sockets`` are files outside the lab's folder that it leaves behind when it is killed.
    """

    name: str
    pid: int
    started: int
    ports: dict[str, int] = field(default_factory=dict)
    log: str = ""
    version: str = ""
    ladder: tuple[tuple[int, float], ...] = ((signal.SIGTERM, 10.0),)
    sockets: tuple[str, ...] = ()

    @property
    def process(self) -> ProcessId:
        return ProcessId(self.pid, self.started)


class State:
    """The file and its content; safe from several threads of one process."""

    def __init__(self, folder: Path, lab_id: str) -> None:
        self.folder = folder
        self.lab_id = lab_id
        self.servers: dict[str, ServerRecord] = {}
        self.facts: dict[str, Any] = {}
        self._lock = Lock()

    @classmethod
    def load(cls, folder: Path) -> State | None:
        """Read ``lab.json``; None where there is none. Errors: ``LabError``, ``NewerFormat``."""
        path = folder / "lab.json"
        try:
            body = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            raise LabError(f"cannot read '{path}': {exc}", hint="dbsec lab down") from exc
        if body.get("magic") != MAGIC:
            raise LabError(f"'{path}' is not a lab of dbsec", hint="choose another DBSEC_HOME")
        if body["format"] > FORMAT:
            raise NewerFormat(f"'{path}'", found=body["format"], known=FORMAT)
        state = cls(folder, body["id"])
        state.facts = body["facts"]
        for entry in body["servers"]:
            ladder = tuple((int(s), float(w)) for s, w in entry.pop("ladder"))
            record = ServerRecord(**{**entry, "ladder": ladder, "sockets": tuple(entry["sockets"])})
            state.servers[record.name] = record
        return state

    def record(self, server: ServerRecord) -> None:
        """Add or replace a server and write the file at once."""
        with self._lock:
            self.servers[server.name] = server
            self._write()

    def forget(self, name: str) -> None:
        """Remove a server that was stopped."""
        with self._lock:
            self.servers.pop(name, None)
            self._write()

    def tell(self, **facts: Any) -> None:
        """Keep facts (addresses, paths; never a secret) for later runs."""
        with self._lock:
            self.facts.update(facts)
            self._write()

    def _write(self) -> None:
        body = {
            "magic": MAGIC,
            "format": FORMAT,
            "id": self.lab_id,
            "servers": [asdict(s) for s in self.servers.values()],
            "facts": self.facts,
        }
        files.write_atomic(self.folder / "lab.json", json.dumps(body, indent=1, default=str) + "\n")


def stop_all(state: State) -> list[str]:
    """Stop every server of a lab, last started first, and what a killed run left without a record.

    Returns the names of what was still running. Only processes that bear this lab's mark are touched.
    """
    stopped = []
    for server in reversed(list(state.servers.values())):
        if process.stop(server.process, ladder=server.ladder):
            stopped.append(server.name)
        for socket in server.sockets:
            Path(socket).unlink(missing_ok=True)
    for orphan in (*_marked(state.lab_id), *_postmasters(state.folder)):
        if process.stop(orphan, ladder=((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0))):
            stopped.append(f"pid {orphan.pid}")
    return stopped


def _marked(lab_id: str) -> Sequence[ProcessId]:
    """Find processes that inherited the mark: started, but killed -9 came before the record."""
    mark = f"{TOKEN}={lab_id}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            marked = mark in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if marked and (pid := ProcessId.of(int(entry.name))):
            found.append(pid)
    return found


def _postmasters(folder: Path) -> Sequence[ProcessId]:
    """Find servers by their pid files: PostgreSQL overwrites the memory where the mark was."""
    found = []
    for path in folder.glob("*/postmaster.pid"):
        try:
            lines = path.read_text().splitlines()
            pid = ProcessId.of(int(lines[0]))
            cwd = Path(f"/proc/{lines[0]}/cwd").readlink()
        except (OSError, ValueError, IndexError):
            continue
        if pid and cwd == path.parent:
            found.append(pid)
    return found
