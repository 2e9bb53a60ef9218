"""MariaDB and PgBouncer for the tests: real servers in folders of their own, stopped by pid; killed runs' are swept."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbsec import files, process, retry
from dbsec.errors import ProgramMissing
from dbsec.lab import ports
from dbsec.process import Account, ProcessId

_NUMBERS = itertools.count()
_SELF = ProcessId.of(os.getpid()) or ProcessId(os.getpid(), 0)
_PID = "process.pid"


@dataclass(frozen=True)
class Daemon:
    """A running server: its folder, port and log; ``write`` gives it a file that its account owns."""

    folder: Path
    port: int
    account: Account
    pid: ProcessId

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def write(self, name: str, content: bytes | str, *, mode: int = 0o600) -> Path:
        path = self.folder / name
        files.write_atomic(path, content, mode=mode, owner=(self.account.uid, self.account.gid))
        return path

    def signal(self, number: int) -> None:
        os.kill(self.pid.pid, number)

    def stop(self) -> None:
        process.stop(self.pid, ladder=((signal.SIGTERM, 15.0),))


class Daemons:
    """Makes servers below one folder and stops them all."""

    def __init__(self, root: Path, account: Account, programs: tuple[Path, ...]) -> None:
        self._root, self._account, self._programs = root, account, programs
        self._made: list[Daemon] = []
        self._sweep()

    def pgbouncer(self, config: Callable[[Path, int], str], given: Mapping[str, bytes | str]) -> Daemon:
        """Start PgBouncer with a configuration made of its folder and port, and files by name."""
        program = self._program("pgbouncer")
        folder, port = self._folder("bouncer"), ports.free(1)[0]
        for name, content in {**given, "pgbouncer.ini": config(folder, port)}.items():
            self._write(folder, name, content)
        return self._started(folder, port, [program, folder / "pgbouncer.ini"], lambda: ports.taken(port))

    def mariadb(self, options: Callable[[Path], str], given: Mapping[str, bytes | str]) -> Daemon:
        """Start MariaDB: root comes in by the socket ``s`` in its folder; ``options`` are lines of [mariadbd]."""
        program, install = self._program("mariadbd"), self._program("mariadb-install-db")
        folder, port = self._folder("maria"), ports.free(1)[0]
        for name, content in given.items():
            self._write(folder, name, content)
        own = f"[mariadbd]\ndatadir={folder}/data\nsocket={folder}/s\nport={port}\nbind-address=127.0.0.1\n"
        own += f"pid-file={folder}/pid\ntmpdir={folder}\ninnodb-flush-log-at-trx-commit=0\n{options(folder)}\n"
        config = self._write(folder, "my.cnf", own)
        account = self._account
        argv = [install, f"--defaults-file={config}", "--auth-root-authentication-method=normal", "--skip-test-db"]
        process.run(argv, cwd=folder, account=account, timeout_s=120)
        up = lambda: (folder / "s").exists() and ports.taken(port)  # noqa: E731
        return self._started(folder, port, [program, f"--defaults-file={config}"], up)

    def restarted(self, made: Daemon, up: Callable[[], bool]) -> Daemon:
        """Stop a MariaDB and start it on its own folder."""
        made.stop()
        self._made.remove(made)
        argv = [self._program("mariadbd"), f"--defaults-file={made.folder / 'my.cnf'}"]
        return self._started(made.folder, made.port, argv, up)

    def running(self) -> list[ProcessId]:
        return [one.pid for one in self._made if one.pid.alive]

    def close(self) -> None:
        for one in self._made:
            one.stop()
            shutil.rmtree(one.folder, ignore_errors=True)

    def _started(self, folder: Path, port: int, argv: list[Any], up: Callable[[], bool]) -> Daemon:
        log = folder / "server.log"
        pid = process.spawn(argv, cwd=folder, log=log, account=self._account)
        files.write_atomic(folder / _PID, f"{pid.pid} {pid.started}")
        made = Daemon(folder, port, self._account, pid)
        self._made.append(made)

        def ready() -> bool:
            assert pid.alive, process.last_lines(log)
            return up()

        retry.wait_until(ready, within_s=60, what=f"{Path(argv[0]).name}")
        return made

    def _folder(self, kind: str) -> Path:
        folder = self._root / f"{kind}-{_SELF.pid}-{_SELF.started}-{next(_NUMBERS)}"
        files.make_folder(folder, mode=0o755, owner=(self._account.uid, self._account.gid))
        return folder

    def _write(self, folder: Path, name: str, content: bytes | str) -> Path:
        owner = (self._account.uid, self._account.gid)
        files.write_atomic(folder / name, content, owner=owner)
        return folder / name

    def _program(self, name: str) -> Path:
        path = os.environ["PATH"] + ":/usr/sbin:" + ":".join(map(str, self._programs))
        found = shutil.which(name, path=path)
        if found is None:
            raise ProgramMissing(f"{name} is not installed", hint="make setup-extra")
        return Path(found)

    def _sweep(self) -> None:
        """Stop and delete what a killed run left: the folder's name tells whose it was."""
        for folder in (*self._root.glob("bouncer-*-*-*"), *self._root.glob("maria-*-*-*")):
            _, pid, started, _ = folder.name.split("-")
            if ProcessId(int(pid), int(started)).alive:
                continue
            noted = (folder / _PID).read_text().split() if (folder / _PID).exists() else []
            if len(noted) == 2:
                process.stop(ProcessId(int(noted[0]), int(noted[1])))
            shutil.rmtree(folder, ignore_errors=True)


def password() -> str:
    """Make one up."""
    return f"made-up-{secrets.token_hex(6)}"
