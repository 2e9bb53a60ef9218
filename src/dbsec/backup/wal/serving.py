"""The resident process: a socket on which PostgreSQL's commands have WAL archived and fetched.

Shape: a client sends ``dbsec/1 NUL VERB NUL NAME NUL FOLDER NUL end`` with one open file, and no more; it is answered
``dbsec/1 ok SIZE``, ``dbsec/1 end`` or ``dbsec/1 no REASON`` and a line feed. Paths are never opened for a client.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from dbsec import files
from dbsec.backup.repository import Repository
from dbsec.backup.wal.archiver import Archiver
from dbsec.backup.wal.client import MAGIC
from dbsec.backup.wal.ends import EndOfArchive
from dbsec.backup.wal.fetch import SETTLE_S
from dbsec.backup.wal.serving_fetches import Fetcher
from dbsec.errors import DbsecError, UsageError

PUSH: Final = "push"
FETCH: Final = "fetch"
_MOST_REQUEST = 8192
_MOST_CLIENTS = 8
_MOST_PATH = 107  # sockaddr_un
_REQUEST_S = 10.0
_LOG = logging.getLogger(__name__)


@contextmanager
def serve(
    repository: Repository,
    path: Path,
    *,
    verbs: Collection[str] = (PUSH, FETCH),
    owner: tuple[int, int] | None = None,
    workers: int = 2,
    ahead: int = 8,
    read_ahead: int = 3,
    settle_s: float = SETTLE_S,
) -> Iterator[None]:
    """Serve a socket (0600) while the block runs; what was begun is ended before this returns.

    Whoever connects must be root, this account or ``owner`` (uid, gid), to whom the socket is given.
    Locks: flock(2) on ``.NAME.lock`` beside the socket. Errors: ``UsageError`` where another one serves there, or for
    a path that is too long.
    """
    if len(os.fsencode(path)) > _MOST_PATH:
        raise UsageError(f"the path of a socket has at most {_MOST_PATH} bytes: '{path}'")
    with files.locked(path.with_name(f".{path.name}.lock"), blocking=False) as free:
        if not free:
            raise UsageError(f"another process serves '{path}'", hint="give each cluster a socket of its own")
        allowed = {0, os.geteuid(), *((owner[0],) if owner else ())}
        with ThreadPoolExecutor(workers, "dbsec-wal") as pool, _listening(path, owner) as listener:
            archiver = Archiver(repository, pool, ahead=ahead)
            fetcher = Fetcher(repository, pool, ahead=read_ahead, settle_s=settle_s)
            door = _Door(listener, archiver, fetcher, verbs, allowed)
            try:
                with door.open():
                    yield
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _listening(path: Path, owner: tuple[int, int] | None) -> Iterator[socket.socket]:
    path.unlink(missing_ok=True)  # the lock is ours, so whoever made it is dead
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        # by the file, not by its path: an account that may write to the folder could put a link there meanwhile
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        try:
            if owner is not None:
                os.chown(path, *owner, follow_symlinks=False)
            listener.listen(_MOST_CLIENTS)
            yield listener
        finally:
            path.unlink(missing_ok=True)


class _Door:
    """Lets clients in, each in a thread of its own, some at a time."""

    def __init__(
        self,
        listener: socket.socket,
        archiver: Archiver,
        fetcher: Fetcher,
        verbs: Collection[str],
        allowed: Collection[int],
    ) -> None:
        self._listener = listener
        self._archiver = archiver
        self._fetcher = fetcher
        self._verbs = verbs
        self._allowed = allowed

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let clients in while the block runs; whoever is in is answered before this returns."""
        with ThreadPoolExecutor(_MOST_CLIENTS, "dbsec-wal-client") as clients:
            thread = threading.Thread(target=self._accept, args=(clients,), name="dbsec-wal-door", daemon=True)
            thread.start()
            try:
                yield
            finally:
                with suppress(OSError):
                    self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
                thread.join()

    def _accept(self, clients: ThreadPoolExecutor) -> None:
        while True:
            try:
                wire, _ = self._listener.accept()
            except OSError:
                return
            clients.submit(self._answer, wire)

    def _answer(self, wire: socket.socket) -> None:
        fds: list[int] = []
        with wire:
            try:
                wire.settimeout(_REQUEST_S)
                text = self._result(*self._request(wire, fds), fds)
            except EndOfArchive:
                text = "end"
            except DbsecError as exc:
                text = f"no {exc}" + (f" (try: {exc.hint})" if exc.hint else "")
            except Exception as exc:  # noqa: BLE001 a client that hears nothing takes it for a failure, but not why
                _LOG.warning("a request failed", exc_info=exc)
                text = f"no {type(exc).__name__}: {exc}"
            finally:
                for fd in fds:
                    os.close(fd)
            line = "".join(char if char.isprintable() else " " for char in text)[:3000]
            if text.startswith("no "):
                _LOG.warning("%s", line[3:])
            with suppress(OSError):  # a client that was killed: what it asked for is done, and asked for again
                wire.sendall(MAGIC + b" " + line.encode("utf-8", "replace") + b"\n")

    def _result(self, verb: str, name: str, folder: str, fds: list[int]) -> str:
        if verb == PUSH:
            return f"ok {self._archiver.push(name, fds[0], folder)}"
        return f"ok {self._fetcher.fetch(name, fds[0])}"

    def _request(self, wire: socket.socket, fds: list[int]) -> tuple[str, str, str]:
        """Read who asks for what, and the file that comes with it. Errors: ``UsageError``, ``OSError``."""
        raw = bytearray()
        while len(raw) < _MOST_REQUEST:
            piece, got, _, _ = socket.recv_fds(wire, _MOST_REQUEST, 4, socket.MSG_CMSG_CLOEXEC)
            fds += got
            raw += piece
            if not piece or len(fds) > 1:
                break
        # after the request was read: to close before would cut off the answer
        _, uid, _ = struct.unpack("i2I", wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in self._allowed:
            raise UsageError(f"the account {uid} may not ask here")
        fields = bytes(raw).split(b"\0")
        if len(fields) != 5 or (fields[0], fields[-1]) != (MAGIC, b"end") or len(fds) != 1:
            raise UsageError("this is no request of our client")
        verb, name, folder = (field.decode("utf-8", "surrogateescape") for field in fields[1:4])
        if verb not in self._verbs:
            raise UsageError(f"this server does not {verb}")
        return verb, name, folder
