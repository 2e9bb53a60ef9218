"""The cluster that is looked at: its data folder, its process here, and its settings, from the server or its files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg

from dbsec.backup.at_rest.errors import AtRestError
from dbsec.errors import UsageError
from dbsec.process import ProcessId

_ASKED: Final = (
    *("data_directory", "logging_collector", "log_directory", "log_destination", "archive_mode", "archive_command"),
    *("archive_library", "temp_tablespaces", "shared_preload_libraries", "config_file"),
)
_SETTINGS: LiteralString = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY (%s)"
_WHO: LiteralString = "SELECT pg_catalog.pg_backend_pid(), (SELECT system_identifier FROM pg_control_system())"
_LINE: Final = re.compile(r"^\s*([A-Za-z_][\w.]*)\s*(?:=\s*|\s)('(?:[^'\\]|''|\\.)*'|[^#\s]*)")


@dataclass(frozen=True, slots=True)
class ClusterHere:
    """``server`` is its postmaster, None where none runs. ``settings`` is None where they could not be read."""

    data: Path
    server: ProcessId | None
    settings: Mapping[str, str] | None
    tablespaces: Mapping[str, str] = field(default_factory=dict)

    def setting(self, name: str) -> str:
        """Return a setting's text; empty where it is unset or unread."""
        return (self.settings or {}).get(name, "")


def from_folder(data: Path) -> ClusterHere:
    """Read a data folder, whose server may be down. Errors: ``UsageError`` where it is none."""
    try:
        whole = (data / "PG_VERSION").exists()
    except OSError as exc:
        raise AtRestError(f"'{data}' cannot be entered: {exc.strerror}", hint="run it as root") from exc
    if not whole:
        raise UsageError(f"'{data}' is no data folder of PostgreSQL", hint=f"ls {data}/PG_VERSION")
    return ClusterHere(data, _postmaster(data), _from_files(data))


def from_server(session: psycopg.Connection[Any]) -> ClusterHere:
    """Ask a server, which must run on this machine and in our view of its processes.

    Rights: those of pg_monitor. Errors: ``AtRestError`` where it runs elsewhere, or does not tell its folder.
    """
    told = {str(name): str(value) for name, value in session.execute(_SETTINGS, [list(_ASKED)]).fetchall()}
    if "data_directory" not in told:
        raise AtRestError("the server does not tell its data directory to this role", hint="GRANT pg_monitor TO role")
    backend, system = session.execute(_WHO).fetchone() or (0, 0)
    data = Path(told["data_directory"])
    server = _postmaster(data)
    if server is None or _parent(int(backend)) != server.pid or _system(data) != int(system):
        raise AtRestError(
            f"the server's '{data}' is not seen from here: it runs on another host, in a container, or is closed to us",
            hint=f"there, as root: dbsec at-rest check --data-dir {data}",
        )
    rows = session.execute("SELECT spcname, pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace").fetchall()
    spaces = {str(location): str(name) for name, location in rows if location}
    return ClusterHere(data, server, told, spaces)


def _postmaster(data: Path) -> ProcessId | None:
    """Return the server that runs on a folder; its cwd, where we may see it, must be that folder."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    try:
        if Path(f"/proc/{pid}/cwd").resolve(strict=True) != data.resolve():
            return None
    except OSError:
        pass  # another account's: its name in postmaster.pid must do
    return ProcessId.of(pid)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return 0


def _system(data: Path) -> int:
    """Return the system identifier, which is what pg_control begins with. Source: pg_control.h, ControlFileData."""
    try:
        with (data / "global/pg_control").open("rb") as stream:
            return int.from_bytes(stream.read(8), "little")
    except OSError:
        return 0


def _from_files(data: Path) -> dict[str, str] | None:
    """Read the settings that count here from the files of a server that is not asked; None where they are not found."""
    main = _config_file(data)
    try:
        found = _read(main, set())
        automatic = data / "postgresql.auto.conf"
        if automatic.exists():
            found.update(_read(automatic, set()))
    except OSError:
        return None
    return {"log_directory": "log", "logging_collector": "off", "log_destination": "stderr", **found}


def _config_file(data: Path) -> Path:
    """Return what the server was started with: Debian keeps it in /etc."""
    try:
        words = shlex.split((data / "postmaster.opts").read_text())
    except (OSError, ValueError):
        words = []
    named = [word.partition("=")[2] for word in words if word.removeprefix("--").startswith("config_file=")]
    return Path(named[-1]) if named else data / "postgresql.conf"


def _read(path: Path, seen: set[Path]) -> dict[str, str]:
    """Read a file with what it includes; the last word counts. Errors: ``OSError``."""
    if path in seen:
        return {}
    seen.add(path)
    found: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        name, value = match[1].lower(), _plain(match[2])
        if name in ("include", "include_if_exists", "include_dir"):
            found.update(_included(name, path.parent / value, seen))
        else:
            found[name] = value
    return {name: value for name, value in found.items() if name in _ASKED}


def _included(how: str, path: Path, seen: set[Path]) -> dict[str, str]:
    if how == "include_if_exists" and not path.exists():
        return {}
    files = sorted(path.glob("*.conf")) if how == "include_dir" else [path]
    found: dict[str, str] = {}
    for one in files:
        found.update(_read(one, seen))
    return found


def _plain(literal: str) -> str:
    if literal.startswith("'"):
        return re.sub(r"''|\\(.)", lambda found: found[1] or "'", literal[1:-1])
    return literal
