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
    """One process of the lab. ``ladder`` is the signals that stop it with their patience in seconds."""

    name: str
    pid: int
    started: int
    ports: dict[str, int] = field(default_factory=dict)
    log: str = ""
    version: str = ""
    ladder: tuple[tuple[int, float], ...] = ((signal.SIGTERM, 10.0),)

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
        """Read ``lab.json``; None where the folder is absent or empty, and no servers where the file is damaged.

        Errors: ``LabError`` for a folder that holds something else, ``NewerFormat``.
        """
        path = folder / "lab.json"
        try:
            text = path.read_text() if path.exists() or _holds_anything(folder) else None
        except OSError as exc:
            raise LabError(f"'{folder}' is not a lab of dbsec: no lab.json", hint="choose another DBSEC_HOME") from exc
        if text is None:
            return None
        body = _parsed(text)
        if body is None:
            return cls(folder, "")
        if body.get("magic") != MAGIC:
            raise LabError(f"'{path}' is not a lab of dbsec", hint="choose another DBSEC_HOME")
        if body["format"] > FORMAT:
            raise NewerFormat(f"'{path}'", found=body["format"], known=FORMAT)
        state = cls(folder, body["id"])
        state.facts = body["facts"]
        for entry in body["servers"]:
            ladder = tuple((int(s), float(w)) for s, w in entry.pop("ladder"))
            record = ServerRecord(**{**entry, "ladder": ladder})
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
        """Keep facts (addresses, paths; never a secret) for later runs.

        ``outside`` is the files outside the lab's folder that go when it goes; told before they can come to be.
        """
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


def _holds_anything(folder: Path) -> bool:
    """Tell whether a folder holds more than what a kill -9 before the first lab.json leaves."""
    return folder.is_dir() and any(not entry.name.startswith(".lab.json.") for entry in folder.iterdir())


def _parsed(text: str) -> dict[str, Any] | None:
    """Read lab.json; None for a damaged one, which still names the magic. What is no lab of ours is ``{}``."""
    try:
        body = json.loads(text)
    except ValueError:
        return None if f'"{MAGIC}"' in text else {}
    return body if isinstance(body, dict) else {}


def stop_all(state: State) -> list[str]:
    """Stop every server of a lab, last started first, and what a killed run left without a record.

    Returns the names of what was still running. Only processes that bear this lab's mark are touched.
    """
    stopped = []
    for server in reversed(list(state.servers.values())):
        if process.stop(server.process, ladder=server.ladder):
            stopped.append(server.name)
    stopped += _stop_strays(state.folder, state.lab_id)
    for path in state.facts.get("outside", ()):
        Path(path).unlink(missing_ok=True)
    return stopped


def _stop_strays(folder: Path, lab_id: str) -> list[str]:
    """Stop what was started for a lab and never recorded; with no ``lab_id`` what bears any mark and names ``folder``.

    Again until nothing is found: what is stopped may have started something in between.
    """
    stopped = []
    while strays := _strays(folder, lab_id):
        for stray in strays:
            if process.stop(stray, ladder=((signal.SIGINT, 3.0), (signal.SIGQUIT, 3.0))):
                stopped.append(f"pid {stray.pid}")
    return stopped


def _strays(folder: Path, lab_id: str) -> Sequence[ProcessId]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            ours = _belongs(entry, os.fsencode(folder), lab_id)
        except OSError:
            continue  # it has gone, or is none of our business
        if ours and (pid := ProcessId.of(int(entry.name))):
            found.append(pid)
    return found


def _belongs(entry: Path, folder: bytes, lab_id: str) -> bool:
    arguments = (entry / "cmdline").read_bytes().split(b"\0")
    named = any(item.rpartition(b"=")[2].startswith(folder + b"/") for item in arguments)
    if named and Path(os.fsdecode(arguments[0])).name == "postgres":
        return True  # PostgreSQL overwrites the memory where the mark was
    try:
        environment = (entry / "environ").read_bytes().split(b"\0")
    except PermissionError:
        # Root without CAP_SYS_PTRACE, as in a container, sees no more of another account than its arguments.
        return named and os.geteuid() == 0
    if lab_id:
        return f"{TOKEN}={lab_id}".encode() in environment
    inside = named or os.fsencode((entry / "cwd").readlink()) == folder
    return inside and any(variable.startswith(f"{TOKEN}=".encode()) for variable in environment)
