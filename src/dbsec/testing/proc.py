"""What /proc says of processes: descendants, names, and who listens."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_LISTEN = "0A"


def tree(*pids: int) -> list[int]:
    """Return the processes and all their descendants that live."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(int(entry.name))) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found = list(dict.fromkeys(pids))
    for pid in found:
        found += [child for child in children.get(pid, []) if child not in found]
    return found


def name(pid: int) -> str:
    """Return the short name of a process; ``gone`` where it is."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "gone"


def sockets(pids: Iterable[int]) -> set[str]:
    """Return the sockets that the processes hold open, as ``socket:[INODE]``."""
    return {link for pid in pids for link in _descriptors(pid) if link.startswith("socket:")}


def listening(pids: Iterable[int]) -> set[tuple[int, int]]:
    """Return (port, inode) of each TCP listener that one of the processes holds open."""
    return listeners_among(sockets(pids))


def listeners_among(held: set[str]) -> set[tuple[int, int]]:
    """Return (port, inode) of those sockets that listen; the kernel's tables are long, and not read for none."""
    return {(port, inode) for port, inode in _listeners() if f"socket:[{inode}]" in held} if held else set()


def _listeners() -> Iterable[tuple[int, int]]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue  # a kernel without IPv6
        for row in rows:
            fields = row.split()
            if fields[3] == _LISTEN:
                yield int(fields[1].rpartition(":")[2], 16), int(fields[9])


def _descriptors(pid: int) -> list[str]:
    links = []
    with suppress(OSError):  # the process, or one descriptor of it, has gone
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            links.append(str(entry.readlink()))
    return links


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None
