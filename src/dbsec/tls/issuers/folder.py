"""A CA in a private folder: its key, and a file of what it has issued and revoked, to which lines are only added.

Shape: ``ca.crt``, ``ca.key`` (0600), ``issued.jsonl``: one JSON object a line, ``{"event": "issued", "serial",
"subject", "names", "use", "not_after", "at"}``, ``{"event": "revoked", "serial", "at"}``, ``{"event": "crl", "number",
"next_update", "at"}``; serials in hex, times in RFC 3339. Locks: flock on ``.lock``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from dbsec import files
from dbsec.clock import SYSTEM, Clock, rfc3339
from dbsec.errors import ConfigError, UsageError
from dbsec.tls.ca import Authority, KeyKind, KeyPair
from dbsec.tls.issuers import Issued

_LIST = "issued.jsonl"


class CaFolder:
    """Issues by the key in the folder. A certificate is noted before it is given out."""

    def __init__(self, folder: Path, authority: Authority, *, clock: Clock = SYSTEM) -> None:
        self.folder, self.authority, self._clock = folder, authority, clock

    @classmethod
    def create(
        cls, folder: Path, name: str, *, days: int = 3650, kind: KeyKind = KeyKind.EC, clock: Clock = SYSTEM
    ) -> CaFolder:
        """Make the folder (0700) and the CA. Errors: ``UsageError`` where a CA is there already."""
        files.make_folder(folder, mode=0o700)
        with files.locked(folder / ".lock"):
            if (folder / "ca.key").exists() or (folder / "ca.crt").exists():
                hint = "name another folder: what this CA has issued would no longer be trusted"
                raise UsageError(f"there is a CA in '{folder}'", hint=hint)
            authority = Authority.create(name, days=days, kind=kind, clock=clock)
            authority.save(folder)
        return cls(folder, authority, clock=clock)

    @classmethod
    def open(cls, folder: Path, *, clock: Clock = SYSTEM) -> CaFolder:
        """Open the folder. Errors: ``ConfigError`` where there is no CA, or others may read its key."""
        authority = Authority.load(folder, clock=clock)
        mode = (folder / "ca.key").stat().st_mode
        if mode & 0o077:
            raise ConfigError(f"others may read '{folder / 'ca.key'}'", hint=f"chmod 600 {folder / 'ca.key'}")
        return cls(folder, authority, clock=clock)

    def issue_server(self, names: Sequence[str], lifetime: timedelta) -> Issued:
        """Issue for host names and addresses."""
        with self._locked():
            return self._noted(self.authority.issue_server(names, lifetime=lifetime), "server", list(names))

    def issue_client(self, role: str, lifetime: timedelta) -> Issued:
        """Issue for a role."""
        with self._locked():
            return self._noted(self.authority.issue_client(role, lifetime=lifetime), "client", [role])

    def revoke(self, serial: int) -> None:
        """Note the revocation; a second one changes nothing. Errors: ``UsageError`` for a serial of another CA."""
        with self._locked():
            if serial not in {int(one["serial"], 16) for one in self.events("issued")}:
                raise UsageError(
                    f"this CA has issued no certificate with serial {serial:x}", hint=f"see {self.folder / _LIST}"
                )
            if serial not in self.revoked():
                self._append({"event": "revoked", "serial": f"{serial:x}"})

    def revoked(self) -> list[int]:
        """Return the revoked serials, in the order of their revocation."""
        return [int(one["serial"], 16) for one in self.events("revoked")]

    def crl(self, lifetime: timedelta) -> bytes:
        """Sign the next list; its number is one more than that of the last."""
        with self._locked():
            number = 1 + max((int(one["number"]) for one in self.events("crl")), default=0)
            until = rfc3339(self._clock.now() + lifetime)
            self._append({"event": "crl", "number": number, "next_update": until})
            return self.authority.crl(self.revoked(), number=number, lifetime=lifetime)

    def events(self, kind: str) -> Iterator[dict[str, Any]]:
        """Yield the lines of one kind; a line that a kill -9 cut short is none. Errors: ``ConfigError``."""
        try:
            lines = (self.folder / _LIST).read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        for number, line in enumerate(lines[:-1], 1):
            try:
                event = json.loads(line)
            except ValueError as exc:
                raise ConfigError(f"'{self.folder / _LIST}' line {number} is no JSON", hint="restore the file") from exc
            if event.get("event") == kind:
                yield event

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with files.locked(self.folder / ".lock"):
            yield

    def _noted(self, pair: KeyPair, use: str, names: list[str]) -> Issued:
        certificate = pair.x509
        event = {
            "event": "issued",
            "serial": f"{certificate.serial_number:x}",
            "subject": certificate.subject.rfc4514_string(),
            "names": names,
            "use": use,
            "not_after": rfc3339(certificate.not_valid_after_utc),
        }
        self._append(event)
        return Issued(pair, self.authority.certificate)

    def _append(self, event: dict[str, Any]) -> None:
        """Add a line and sync it; what a cut line before it left is ended first."""
        path = self.folder / _LIST
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                whole = os.pread(fd, size, 0).rfind(b"\n") + 1
                os.ftruncate(fd, whole)
            os.write(fd, json.dumps({**event, "at": rfc3339(self._clock.now())}).encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
        files.sync_folder(self.folder)
