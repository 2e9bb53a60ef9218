"""What the matrix is run against: logins, the CA, and, where they are at hand, the server's files and log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from dbsec import retry
from dbsec.errors import GaveUp
from dbsec.pg import Conninfo, connect, settle
from dbsec.tls import undo
from dbsec.tls.ca import Authority
from dbsec.tls.data_folder import DataFolder
from dbsec.tls.matrix.case import Need
from dbsec.tls.matrix.pooler import Pooler
from dbsec.tls.server_config import alter_system, reload
from dbsec.tls.server_plan import own_settings

_NOTE = "dbsec_tls_drill.json"  # beside the server's files while they are not as the site wants them
_LOG_WITHIN_S = 3.0


@dataclass(frozen=True, slots=True)
class Server:
    """The server's own side: its data folder, and the file that its log goes to."""

    folder: DataFolder
    log: Path | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """``service``: the DSN whose holder is attacked; ``mtls``: a login that needs a client certificate, without it;
    ``admin``: a superuser of PostgreSQL who comes over the network; ``pooler``: the PgBouncer that the first two dial.
    """

    service: Conninfo
    authority: Authority | None = None
    mtls: Conninfo | None = None
    admin: Conninfo | None = None
    server: Server | None = None
    pooler: Pooler | None = None

    @property
    def offers(self) -> frozenset[Need]:
        """Name what is at hand."""
        server = self.server if self.admin is not None else None
        log = self.pooler.log if self.pooler else server.log if server else None
        has = {
            Need.AUTHORITY: self.authority,
            Need.MTLS: self.mtls,
            Need.ADMIN: self.admin,
            Need.SERVER: server,
            Need.LOG: log,
            Need.POOLER: self.pooler,
        }
        return frozenset(need for need, what in has.items() if what is not None)

    def but(self, params: Mapping[str, str | None]) -> Bench:
        """Return the bench with other parameters of the service's DSN."""
        return replace(self, service=self.service.but(password=None, **params))

    def setting(self, name: str) -> str:
        """Read a setting of the server."""
        assert self.admin is not None
        with connect(self.admin) as connection:
            row = connection.execute("SELECT current_setting(%s, true)", (name,)).fetchone()
        return str(row[0] or "") if row else ""

    @contextmanager
    def changed(
        self,
        *,
        hba: str | None = None,
        settings: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> Iterator[Bench]:
        """Run the block under other files and settings; what was there is put back, by the next drill if not by this.

        The connection that puts back is open before, so that no hba shuts it out.
        """
        assert self.admin is not None
        assert self.server is not None
        folder = self.server.folder
        with connect(self.admin) as connection:
            wanted = dict(files or {})
            if hba is not None:
                wanted[_hba_file(connection)] = hba.encode()
            before = {name: folder.read(name) for name in wanted}
            own = own_settings(connection)
            undo.keep(folder, _NOTE, undo.Before(before, {name: own.get(name) for name in settings or {}}))
            try:
                for name, content in wanted.items():
                    folder.write(name, content)
                for name, value in (settings or {}).items():
                    alter_system(connection, name, value)
                reload(connection)
                yield self
            finally:
                settle(connection)
                _put_back(connection, folder)

    @contextmanager
    def logged(self) -> Iterator[Log]:
        """Yield what reads the lines that the server's log gets during the block."""
        log = self.pooler.log if self.pooler else self.server.log if self.server else None
        assert log is not None
        yield Log(log, log.stat().st_size)


@dataclass(frozen=True, slots=True)
class Log:
    """The log from a place on."""

    path: Path
    start: int

    def says(self, words: str) -> bool:
        """Wait until a line holds the words; False where none does in time."""
        try:
            retry.wait_until(lambda: words in self._new(), within_s=_LOG_WITHIN_S, what="the log's line")
        except GaveUp:
            return False
        return True

    def _new(self) -> str:
        with self.path.open("rb") as stream:
            stream.seek(self.start)
            return stream.read().decode("utf-8", "replace")


def recover(bench: Bench) -> bool:
    """Put back what a drill that was killed has left changed; True where there was something.

    Errors: ``UsageError`` where the note about it cannot be read.
    """
    pooler = bench.pooler is not None and bench.pooler.recover()
    if bench.server is None or bench.admin is None or bench.server.folder.read(_NOTE) is None:
        return pooler
    with connect(bench.admin) as connection:
        _put_back(connection, bench.server.folder)
    return True


def _put_back(connection: psycopg.Connection[Any], folder: DataFolder) -> None:
    before = undo.kept(folder, _NOTE)
    if before is None:
        return
    for name, data in before.files.items():
        folder.restore(name, data)
    for name, value in before.settings.items():
        alter_system(connection, name, value)
    reload(connection)
    undo.drop(folder, _NOTE)


def _hba_file(connection: psycopg.Connection[Any]) -> str:
    row = connection.execute("SELECT current_setting('hba_file')").fetchone()
    return str(row[0]) if row else "pg_hba.conf"
