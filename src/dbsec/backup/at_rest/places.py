"""Where a cluster's rows lie, and where they leak beside it."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dbsec.backup.at_rest import mounts, volume
from dbsec.backup.at_rest.cluster import ClusterHere
from dbsec.backup.at_rest.machine import Machine
from dbsec.backup.at_rest.verdict import Seen, Verdict, weakest
from dbsec.backup.wal.commands import CLIENT

_HAS_LINKS: Final = ("", "base", "pg_tblspc")
_SEALS: Final = {"wal-g": "WALG_LIBSODIUM_KEY", "pgbackrest": "repo1-cipher-type", "barman": "its encryption option"}


@dataclass(frozen=True, slots=True)
class Place:
    """``name`` is what lies there; ``holds`` says whose rows it is about: those of the cluster, or of what leaks."""

    name: str
    path: str
    seen: Seen
    leak: bool = False


def data_places(cluster: ClusterHere, machine: Machine) -> Iterator[Place]:
    """Look at the data folder, what is mounted in it, and what its links lead to: WAL, tablespaces, a database."""
    yield _looked("data directory", cluster.data, machine)
    for name, target in _links(cluster, machine):
        yield _looked(name, target, machine)
    try:
        inside = mounts.below(machine.mounts(), str(cluster.data))
    except OSError:
        return  # said already of the data directory
    for mount in inside:
        yield _looked(f"mount below it, {mount.point.rpartition('/')[2]}", Path(mount.point), machine)


def _links(cluster: ClusterHere, machine: Machine) -> Iterator[tuple[str, Path]]:
    for inner in _HAS_LINKS:
        try:
            entries = sorted(os.scandir(machine.reach(cluster.data / inner)), key=lambda one: one.name)
        except OSError:
            continue
        for entry in entries:
            if entry.is_symlink():
                target = Path(entry.path).readlink()
                target = target if target.is_absolute() else cluster.data / inner / target
                yield _link_name(cluster, inner, entry.name, target), target


def _link_name(cluster: ClusterHere, inner: str, name: str, target: Path) -> str:
    if inner == "pg_tblspc":
        space = cluster.tablespaces.get(str(target), name)
        temporary = cluster.setting("temp_tablespaces").replace('"', "").split(",")
        return f"{'temporary ' if space in map(str.strip, temporary) else ''}tablespace {space}"
    return "WAL" if name == "pg_wal" else f"link {Path(inner) / name}"


def _looked(name: str, path: Path, machine: Machine, *, leak: bool = False) -> Place:
    return Place(name, str(path), volume.look(path, machine), leak)


def leaks(cluster: ClusterHere, machine: Machine) -> Iterator[Place]:
    """Look at what rows leak to: log, archive, core dumps, swap, the password file."""
    yield _log(cluster, machine)
    yield from _archive(cluster, machine)
    yield _cores(cluster, machine)
    areas = volume.swap(machine)
    seen = weakest([one for _, one in areas]) if areas else Seen(Verdict.MEMORY, "no swap", str(machine.proc / "swaps"))
    yield Place("swap", ", ".join(name for name, _ in areas), seen, leak=True)
    yield from _passfile(cluster, machine)


def _log(cluster: ClusterHere, machine: Machine) -> Place:
    """A statement that fails stands in the log with its literals, and with log_parameter_max_length the parameters."""
    if cluster.settings is None:
        how = "the log's folder is not known: no configuration was found beside the data"
        return Place("log", "", Seen(Verdict.UNKNOWN, how, "", "dbsec at-rest check --dsn REF"), leak=True)
    if "syslog" in cluster.setting("log_destination"):
        return _looked("log (syslog)", Path("/var/log"), machine, leak=True)
    if cluster.setting("logging_collector") in ("on", "true", "yes", "1"):
        return _looked("log", cluster.data / cluster.setting("log_directory"), machine, leak=True)
    return _stderr(cluster, machine)


def _stderr(cluster: ClusterHere, machine: Machine) -> Place:
    if cluster.server is None:
        how = "the server is down, and its log goes to where its stderr will"
        return Place("log", "", Seen(Verdict.UNKNOWN, how, "", "start it, and check again"), leak=True)
    link = machine.proc / str(cluster.server.pid) / "fd/2"
    try:
        target = str(link.readlink())
    except OSError as exc:
        how = f"the server's stderr is not ours to see: {exc.strerror}"
        return Place("log", "", Seen(Verdict.UNKNOWN, how, str(link), f"as root: ls -l {link}"), leak=True)
    if target == "/dev/null":
        return Place("log", target, Seen(Verdict.MEMORY, "no log at all", str(link)), leak=True)
    if not target.startswith("/"):
        how = f"the server's stderr is a {target.partition(':')[0]}: whoever reads it keeps the log"
        return Place(
            "log", "", Seen(Verdict.UNKNOWN, how, str(link), "journalctl --disk-usage; ls /var/log"), leak=True
        )
    return _looked("log (stderr)", Path(target), machine, leak=True)


def _archive(cluster: ClusterHere, machine: Machine) -> Iterator[Place]:
    command = cluster.setting("archive_command")
    if library := cluster.setting("archive_library"):
        how = f"library '{library}' archives, and does not tell where to"
        yield Place("WAL archive", "", Seen(Verdict.UNKNOWN, how, "archive_library"), leak=True)
        return
    if not command or cluster.setting("archive_mode") not in ("on", "always"):
        return
    if CLIENT in command or " dbsec " in f" {command} ":
        yield Place(
            "WAL archive", "", Seen(Verdict.ENCRYPTED, "sealed by dbsec before it leaves", "archive_command"), True
        )
        return
    folders = list(_folders(command))
    for folder in folders:
        yield _looked("WAL archive", folder, machine, leak=True)
    if not folders:
        tool = next((name for name in _SEALS if name in command), "")
        check = f"look for {_SEALS[tool]} in the configuration of {tool}" if tool else "read archive_command"
        how = f"{tool or 'archive_command'} takes it to where this cannot look"
        yield Place("WAL archive", "", Seen(Verdict.UNKNOWN, how, "archive_command", check), leak=True)


def _folders(command: str) -> Iterator[Path]:
    """Yield the folders that a command names as a place for ``%f``, or as a folder."""
    try:
        words = shlex.split(command)
    except ValueError:
        return
    for word in words:
        if not word.startswith("/"):
            continue
        path = Path(word)
        if "%f" in word:
            yield Path(word.partition("%f")[0] + "x").parent
        elif path.is_dir():
            yield path


def _cores(cluster: ClusterHere, machine: Machine) -> Place:
    """A crash writes the server's memory, shared buffers with it. Source: core(5)."""
    pattern = machine.read(machine.proc / "sys/kernel/core_pattern")
    if pattern.startswith("|"):
        handler = pattern[1:].split()[0] if pattern[1:].split() else "?"
        where = next((f for name, f in _HANDLERS.items() if name in handler), None)
        if where is None:
            how = f"the kernel gives them to {handler}"
            return Place("core dumps", "", Seen(Verdict.UNKNOWN, how, "core_pattern", f"man {handler}"), leak=True)
        if not where.exists():
            return Place("core dumps", str(where), Seen(Verdict.MEMORY, f"{where} is not there"), leak=True)
        return _looked(f"core dumps ({Path(handler).name})", where, machine, leak=True)
    if cluster.server is not None and _no_core(machine, cluster.server.pid):
        return Place(
            "core dumps", "", Seen(Verdict.MEMORY, "their size is limited to 0", "/proc/PID/limits"), leak=True
        )
    folder = Path(pattern).parent if pattern.startswith("/") else cluster.data
    return _looked("core dumps", folder, machine, leak=True)


_HANDLERS: Final = {"systemd-coredump": Path("/var/lib/systemd/coredump"), "apport": Path("/var/crash")}


def _no_core(machine: Machine, pid: int) -> bool:
    told = machine.read(machine.proc / str(pid) / "limits")
    line = next((one for one in told.splitlines() if one.startswith("Max core file size")), "")
    return line.split()[4:6] == ["0", "0"]


def _passfile(cluster: ClusterHere, machine: Machine) -> Iterator[Place]:
    """The account's passwords stand in clear in its home: the disk below is all that hides them."""
    try:
        home = Path(pwd.getpwuid(machine.reach(cluster.data).stat().st_uid).pw_dir)
        there = machine.reach(home / ".pgpass").exists()
    except (OSError, KeyError):
        return
    if there:
        yield _looked("password file", home / ".pgpass", machine, leak=True)
