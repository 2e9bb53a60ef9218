"""What every server of one lab shares: its folder, account, authority and mark."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbsec import files, process
from dbsec.errors import LabError, ProgramError
from dbsec.lab.state import TOKEN, ServerRecord, State
from dbsec.process import Account, ProcessId
from dbsec.secret import Secret
from dbsec.tls.ca import Authority, KeyPair

SERVER_NAMES = ("localhost", "127.0.0.1")


@dataclass(frozen=True, slots=True)
class Site:
    """One lab. ``folder`` is ours, and each server's folder in it is ``account``'s.

    Whoever takes a server over can then neither change what we read (``lab.json``) nor what we run. ``programs`` holds
    copies of what the account may not run.
    """

    folder: Path
    programs: Path
    account: Account
    authority: Authority
    state: State

    @property
    def owner(self) -> tuple[int, int] | None:
        return None if self.account.is_current else (self.account.uid, self.account.gid)

    @property
    def mark(self) -> Mapping[str, str]:
        return {TOKEN: self.state.lab_id}

    @property
    def ca_path(self) -> Path:
        return self.folder / "ca.crt"

    def subfolder(self, name: str) -> Path:
        """Make a private folder for a server."""
        path = self.folder / name
        files.make_folder(path, mode=0o700, owner=self.owner)
        return path

    def write(self, name: str, data: str | bytes) -> Path:
        """Put a private file into the lab's folder."""
        path = self.folder / name
        files.write_atomic(path, data, owner=self.owner)
        return path

    def secret(self, name: str, value: Secret) -> Path:
        """Keep a credential in ``secrets/NAME`` (0600): read by reference ``file:``, never shown."""
        return self.write(f"secrets/{name}", value.reveal() + "\n")

    def certificate(self) -> KeyPair:
        """Issue a server certificate for this machine's loopback names."""
        return self.authority.issue_server(SERVER_NAMES)

    def runnable(self, program: Path) -> Path:
        """Return the program, or a copy where the account may not run it: a wheel below a closed home."""
        if self._runs(program):
            return program
        copy = self.programs / program.name
        if not copy.exists() or copy.stat().st_size != program.stat().st_size:
            part = copy.with_name(f".{copy.name}.{secrets.token_hex(4)}.part")  # another lab may copy it just now
            shutil.copy2(program, part)
            part.chmod(0o755)
            part.replace(copy)
        if not self._runs(copy):
            raise LabError(
                f"account '{self.account.name}' may not run '{copy}'",
                hint="set DBSEC_HOME to a folder that every account may enter, on a file system without noexec",
            )
        return copy

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        ports: Mapping[str, int],
        version: str = "",
        env: Mapping[str, str] | None = None,
        ladder: tuple[tuple[int, float], ...] = ((15, 10.0),),
        account: Account | None = None,
    ) -> ProcessId:
        """Start a server, record it at once, and return its process. Its log is ``logs/NAME.log``."""
        log = self.folder / "logs" / f"{name}.log"
        who = account or self.account
        own = {"TMPDIR": str(self.folder / "tmp"), **self.mark}
        pid = process.spawn(argv, cwd=self.folder, log=log, account=who, env={**(env or {}), **own})
        record = ServerRecord(name, pid.pid, pid.started, dict(ports), str(log), version, ladder)
        self.state.record(record)
        return pid

    def _runs(self, program: Path) -> bool:
        try:
            process.run(["/usr/bin/test", "-x", program], cwd=Path("/"), account=self.account)
        except ProgramError:
            return False
        return True


def must_live(pid: ProcessId, name: str, log: Path) -> None:
    """Raise where a server has ended while it was waited for. Errors: ``LabError`` with the end of its log."""
    if not pid.alive:
        raise LabError(f"{name} ended while it started: {process.last_lines(log)}", hint=f"see {log}")
