"""PostgreSQL clusters for tests: initdb once per version, a copy per cluster, a database per test from a template."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from dbsec import files, process
from dbsec.errors import ProgramMissing
from dbsec.pg import Conninfo, connect
from dbsec.pg.binaries import Binaries, Source, find
from dbsec.pg.instance import Instance
from dbsec.process import Account, ProcessId
from dbsec.secret import Secret

_NUMBERS = itertools.count()
_FOLDER = re.compile(r"c-(\d+)-(\d+)-\d+")
_SELF = ProcessId.of(os.getpid()) or ProcessId(os.getpid(), 0)
SOURCES = {15: Source.SYSTEM, 17: Source.WHEEL, 18: Source.PG0}
_PASSWORD = Secret("superuser-of-a-test-cluster")
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "log_line_prefix": "%m [%p] user=%u,db=%d,host=%h,app=%a,session=%c ",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running server. ``admin`` is its superuser over TCP, database postgres."""

    instance: Instance
    admin: Conninfo
    account: Account

    @property
    def major(self) -> int:
        return self.instance.binaries.major

    @property
    def log(self) -> Path:
        return self.instance.log

    def create_database(self, name: str) -> Conninfo:
        """Make a database from template1 and return its superuser's connection."""
        with connect(self.admin) as admin:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.admin.but(dbname=name)

    def drop_database(self, name: str) -> None:
        with connect(self.admin) as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


class Clusters:
    """Makes clusters below one folder and stops them all; safe beside other processes with the same folder.

    ``root`` is a folder that ``account`` may enter; it keeps the cached initdb between runs. ``free_port`` names a port
    on which nothing listens; ``unpacked`` is that of ``binaries.find``.
    """

    def __init__(
        self, root: Path, major: int, *, account: Account, free_port: Callable[[], int], unpacked: Path | None = None
    ) -> None:
        self._root = root
        self._major = major
        self._account = account
        self._free_port = free_port
        self._unpacked = unpacked
        self._made: list[Cluster] = []
        self._sweep()

    def binaries(self) -> Binaries:
        """Find this version's programs, copied to where the account may run them. Errors: ``ProgramMissing``."""
        cache = self._root / "pg0"
        cache.mkdir(mode=0o755, parents=True, exist_ok=True)
        with files.locked(self._root / ".binaries.lock"):
            found = find(SOURCES[self._major], cache=cache, unpacked=self._unpacked)
            if found.major != self._major:
                raise ProgramMissing(
                    f"the system's PostgreSQL is {found.version}", hint="apt-get install postgresql-15"
                )
            return found if found.runnable_by(self._account) else found.copied_to(self._root / f"pg{self._major}")

    def create(self, **settings: str) -> Cluster:
        """Copy the cached cluster, start it with ``settings`` over the test settings, and return it."""
        folder = self._root / f"c-{_SELF.pid}-{_SELF.started}-{next(_NUMBERS)}"
        shutil.copytree(self._template(), folder, copy_function=shutil.copy2)
        self._own(folder)
        port = self._free_port()
        instance = Instance(self.binaries(), folder / "data", port, folder / "server.log", self._account)
        instance.configure({**_SETTINGS, "port": str(port), **settings})
        admin = Conninfo.local(port, user="postgres", dbname="postgres", password=_PASSWORD)
        cluster = Cluster(instance, admin, self._account)
        self._made.append(cluster)
        instance.start()
        return cluster

    def running(self) -> list[ProcessId]:
        """Return the servers that are still up: what a reaper must find empty in the end."""
        return [pid for cluster in self._made if (pid := cluster.instance.running())]

    def close(self) -> None:
        """Stop every cluster that was made here and delete it."""
        for cluster in self._made:
            cluster.instance.stop()
            shutil.rmtree(cluster.instance.data.parent, ignore_errors=True)

    def _sweep(self) -> None:
        """Stop and delete what a killed run left: the folder's name tells whose it was."""
        for folder in self._root.glob("c-*-*-*"):
            found = _FOLDER.fullmatch(folder.name)  # other folders of tests lie here too
            if found is not None and not ProcessId(int(found[1]), int(found[2])).alive:
                Instance(self.binaries(), folder / "data", 0, folder / "server.log", self._account).stop()
                shutil.rmtree(folder, ignore_errors=True)

    def _template(self) -> Path:
        folder = self._root / f"template{self._major}"
        with files.locked(self._root / f".template{self._major}.lock"):
            if not (folder / "ready").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                self._own(folder)
                made = Instance(self.binaries(), folder / "data", 1, folder / "server.log", self._account)
                made.init(superuser="postgres", password=_PASSWORD, durable=False)
                (folder / "ready").touch()
        return folder

    def _own(self, folder: Path) -> None:
        folder.chmod(0o755)
        if not self._account.is_current:
            owner = f"{self._account.uid}:{self._account.gid}"
            process.run(["chown", "-R", owner, folder], cwd=Path("/"))
