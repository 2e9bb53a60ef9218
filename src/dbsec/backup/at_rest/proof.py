"""The marker: what a real server has written is looked for on the raw medium below it, and must not be found."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dbsec import files, process
from dbsec.backup.at_rest import fscrypt, volume
from dbsec.backup.at_rest.machine import Machine
from dbsec.backup.at_rest.offers import Offer, Strongest
from dbsec.backup.at_rest.verdict import Seen, Verdict
from dbsec.pg import Conninfo, connect
from dbsec.pg.binaries import Binaries
from dbsec.pg.instance import Instance
from dbsec.process import Account
from dbsec.progress import Progress
from dbsec.secret import Secret

ROWS: Final = 1000
_PIECE: Final = 4 << 20
_SUPERUSER: Final = "dbsec"
_SETTINGS: Final = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "shared_buffers": "16MB"}


@dataclass(frozen=True, slots=True)
class Bench:
    """What runs the server: its programs, its account, and where a port is free."""

    binaries: Binaries
    account: Account
    free_port: Callable[[], int]
    password: Secret = field(default_factory=lambda: Secret(secrets.token_urlsafe(16)))


@dataclass(frozen=True, slots=True)
class Found:
    """How often the marker stands in what was searched, and how much that was."""

    hits: int
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Proof:
    """``view`` is what root sees while it is up, ``raw`` what a thief has, ``plain`` the same rows in clear."""

    means: str
    label: str
    view: Found
    raw: Found
    plain: Found
    seen: Seen
    refused: tuple[Offer, ...]

    @property
    def holds(self) -> bool:
        """Tell whether nothing was found where it was written, and found where nothing hid it."""
        return bool(self.view.hits and self.plain.hits and not self.raw.hits) and self.seen.verdict is Verdict.ENCRYPTED


def make_key(path: Path) -> None:
    """Make a random key in a private file: for a lab, whose data lie beside it."""
    files.write_atomic(path, secrets.token_bytes(fscrypt.KEY_BYTES))


def make_template(bench: Bench, folder: Path) -> Path:
    """Make an empty cluster, to be copied to where it is to run."""
    data = folder / "template"
    _instance(bench, data).init(superuser=_SUPERUSER, password=bench.password, durable=False)
    return data


def prove(bench: Bench, folder: Path, up: Strongest, *, progress: Progress) -> Proof:
    """Write a marker on the encrypted folder and on a plain one beside it, and search what lies below both.

    ``folder`` is one that the server's account may enter. Errors: ``ProgramError``, ``ConnectError``.
    """
    progress.step("making an empty cluster")
    template = make_template(bench, folder)
    plain = folder / "plain"
    files.make_folder(plain, mode=0o755)
    try:
        progress.step("the counter-test: the same rows on a plain folder")
        found, _ = written(bench, template, plain, plain)
        progress.step(f"the marker on {up.means.name}")
        view, raw = written(bench, template, up.raised.inside, up.raised.medium)
    finally:
        for made in (template, plain):
            shutil.rmtree(made, ignore_errors=True)
    seen = volume.look(up.raised.inside, Machine())
    return Proof(up.means.name, up.means.label, view, raw, found, seen, up.refused)


def written(bench: Bench, template: Path, inside: Path, medium: Path) -> tuple[Found, Found]:
    """Run a copy of a cluster in a folder, write a marker, and search that folder, then the medium below it.

    Both are searched with the server down and all of it flushed.
    """
    data = inside / "data"
    shutil.copytree(template, data)
    if not bench.account.is_current:
        process.run(["chown", "-R", f"{bench.account.uid}:{bench.account.gid}", data], cwd=Path("/"))
    server = _instance(bench, data)
    server.configure({**_SETTINGS, "port": str(server.port)})
    marker = f"dbsec-marker-{secrets.token_hex(12)}"
    try:
        server.start()
        _write(bench, server, marker)
    finally:
        server.stop()
    process.run(["sync", "-f", data], cwd=Path("/"), timeout_s=300)
    return search(data, marker.encode()), search(medium, marker.encode())


def _instance(bench: Bench, data: Path) -> Instance:
    """Its log lies in its data: beside them it would tell what they hide."""
    return Instance(bench.binaries, data, bench.free_port(), data / "server.log", bench.account)


def _write(bench: Bench, server: Instance, marker: str) -> None:
    login = Conninfo.local(server.port, user=_SUPERUSER, dbname="postgres", password=bench.password)
    with connect(login) as session:
        session.execute("CREATE TABLE dbsec_marker (n int, marker text)")
        session.execute("INSERT INTO dbsec_marker SELECT n, %s FROM generate_series(1, %s) n", (marker, ROWS))
        session.execute("CHECKPOINT")


def search(place: Path, marker: bytes) -> Found:
    """Count a marker in a file, or in the contents and names of all files below a folder."""
    hits = count = size = 0
    for path in _files(place):
        count += 1
        hits += marker in str(path).encode(errors="surrogateescape")
        for piece in _pieces(path, len(marker) - 1):
            size += len(piece)
            hits += piece.count(marker)
    return Found(hits, count, size)


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
        return
    for folder, _, names in os.walk(place):
        yield from (path for name in names if (path := Path(folder) / name).is_file() and not path.is_symlink())


def _pieces(path: Path, overlap: int) -> Iterator[bytes]:
    """Read a file in pieces that share their edges, so that nothing hides on one."""
    with path.open("rb") as stream:
        tail = b""
        while piece := stream.read(_PIECE):
            yield tail + piece
            tail = piece[-overlap:] if overlap else b""
