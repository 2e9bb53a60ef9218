"""Run one PostgreSQL server: initdb, configuration, start, stop, standby."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dbsec import files, process
from dbsec.errors import ProgramError
from dbsec.pg.binaries import Binaries
from dbsec.pg.conninfo import Conninfo
from dbsec.process import Account, ProcessId
from dbsec.secret import Secret

# Fast shutdown, then immediate: both let the postmaster end its children, which SIGKILL does not.
STOP_LADDER = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))
_OWN_CONF = "dbsec.conf"


@dataclass(frozen=True, slots=True)
class Instance:
    """One data folder with the programs and the account that run it; ``log`` is what the server prints.

    ``mark`` is in the environment of its programs, so that what a killed run left can be found.
    """

    binaries: Binaries
    data: Path
    port: int
    log: Path
    account: Account | None = None
    mark: Mapping[str, str] = field(default_factory=dict, compare=False)

    def init(self, *, superuser: str, password: Secret, durable: bool = True) -> None:
        """Make the cluster: UTF8, C.UTF-8, checksums, SCRAM. ``durable=False`` skips initdb's fsync (tests, labs)."""
        files.make_folder(self.data, mode=0o700, owner=self._owner)
        pwfile = self.data.parent / f".{self.data.name}.pw"
        files.write_atomic(pwfile, password.reveal() + "\n", owner=self._owner)
        argv = [
            *("initdb", "--pgdata", self.data, "--username", superuser, "--pwfile", pwfile, "--auth", "scram-sha-256"),
            *("--encoding", "UTF8", "--locale", "C.UTF-8", "--data-checksums"),
            *(() if durable else ("--no-sync",)),
        ]
        try:
            self._run(argv[0], *argv[1:])
        finally:
            pwfile.unlink(missing_ok=True)
        self._include_own()

    def clone(self, primary: Conninfo, *, slot: str) -> None:
        """Make this the standby of ``primary`` by pg_basebackup over a new physical replication slot.

        The password goes to a private passfile beside the data folder, never into the configuration: the recovery
        settings that ``pg_basebackup -R`` writes would hold it in clear.
        """
        files.make_folder(self.data, mode=0o700, owner=self._owner)
        source = self._by_passfile(primary)
        argv = ("--pgdata", self.data, "--wal-method", "stream", "--create-slot", "--slot", slot, "--no-sync")
        self._run("pg_basebackup", "--dbname", source.text(), *argv, "--checkpoint", "fast")
        self.configure({"port": str(self.port), "primary_slot_name": slot, "hot_standby_feedback": "on"})
        self._follow(source)
        files.write_atomic(self.data / "standby.signal", "", owner=self._owner)

    def follow(self, primary: Conninfo) -> None:
        """Let a running standby reach its primary by other parameters: a reload, and its receiver reconnects."""
        self._follow(self._by_passfile(primary))
        self.reload()

    def configure(self, settings: Mapping[str, str]) -> None:
        """Merge settings into the cluster's own included file; they count after a reload or a start."""
        path = self.data / _OWN_CONF
        merged = {**self._configured(), **settings}
        text = "".join(f"{name} = {_literal(value)}\n" for name, value in sorted(merged.items()))
        files.write_atomic(path, text, owner=self._owner)

    def write(self, name: str, data: str | bytes) -> Path:
        """Put a private file into the data folder (pg_hba.conf, a certificate) and return its path."""
        path = self.data / name
        files.write_atomic(path, data, owner=self._owner)
        return path

    def start(self, *, timeout_s: int = 60) -> ProcessId:
        """Start the server and wait until it accepts connections.

        Errors: ``ProgramError`` with the end of the server's log, after what had started was stopped.
        """
        argv: list[str | Path] = [
            self.binaries.program("pg_ctl"),
            "--pgdata",
            self.data,
            "--log",
            self.log,
            "--wait",
            "start",
        ]
        argv += ["--timeout", str(timeout_s)]
        code = process.run_detaching(
            argv, cwd=self.data, account=self.account, env={**self.binaries.env, **self.mark}, timeout_s=timeout_s + 10
        )
        running = self.running()
        if code or running is None:
            if running is not None:
                process.stop(running, ladder=STOP_LADDER)
            raise ProgramError(
                f"PostgreSQL in '{self.data}' did not start on port {self.port}", tail=process.last_lines(self.log)
            )
        return running

    def stop(self) -> bool:
        """Stop by pid and start time; returns False where it was not running."""
        running = self.running()
        return running is not None and process.stop(running, ladder=STOP_LADDER)

    def reload(self) -> None:
        """Ask the server to read its configuration again (SIGHUP); what it refuses is only in its log."""
        running = self.running()
        if running is None:
            raise ProgramError(f"PostgreSQL in '{self.data}' is not running")
        os.kill(running.pid, signal.SIGHUP)

    def running(self) -> ProcessId | None:
        """Read postmaster.pid; None where no such process lives, or another one has got its number since.

        The file is the account's: whoever has taken it over must not choose which process we stop.
        """
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            owner = Path(f"/proc/{pid}").stat().st_uid
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        ours = owner == (self.account or Account.current()).uid and os.fsencode(self.data) in arguments
        return ProcessId.of(pid) if ours else None

    def destroy(self) -> None:
        """Stop it and delete its data folder."""
        self.stop()
        shutil.rmtree(self.data, ignore_errors=True)

    @property
    def _owner(self) -> tuple[int, int] | None:
        return (self.account.uid, self.account.gid) if self.account and not self.account.is_current else None

    def _by_passfile(self, primary: Conninfo) -> Conninfo:
        passfile = self.data.parent / f".{self.data.name}.pgpass"
        files.write_atomic(passfile, primary.passfile_line(), owner=self._owner)
        return Conninfo({**primary.params, "passfile": str(passfile)})

    def _follow(self, source: Conninfo) -> None:
        self.configure({"primary_conninfo": source.but(dbname=None, application_name=self.data.name).text()})

    def _configured(self) -> dict[str, str]:
        try:
            text = (self.data / _OWN_CONF).read_text()
        except FileNotFoundError:
            return {}
        pairs = (line.split(" = ", 1) for line in text.splitlines())
        return {name: _unquoted(value) for name, value in pairs}

    def _include_own(self) -> None:
        main = self.data / "postgresql.conf"
        files.write_atomic(main, main.read_text() + f"\ninclude_if_exists = '{_OWN_CONF}'\n", owner=self._owner)

    def _run(self, name: str, *argv: str | Path) -> str:
        return process.run(
            [self.binaries.program(name), *argv],
            cwd=self.data.parent,
            account=self.account,
            env={**self.binaries.env, **self.mark},
            timeout_s=600,
        )


def _literal(value: str) -> str:
    """Quote a value for a configuration file. Source: PostgreSQL, guc-file.l (GUC_scanstr): a backslash escapes."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _unquoted(literal: str) -> str:
    return re.sub(r"\\\\|''", lambda match: match[0][0], literal[1:-1])
