"""The service's own test, run against a clone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dbsec import process
from dbsec.errors import ProgramError
from dbsec.pg import Conninfo


@dataclass(frozen=True, slots=True)
class Smoke:
    """A command of the shell, run in ``folder``; ``environment`` is what it has beside the clone's address."""

    command: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 600.0

    def __call__(self, clone: Conninfo) -> str:
        """Run it; returns "" for exit code 0, else what it said.

        Shape of its environment: libpq's PGHOST (a folder with a socket), PGPORT, PGUSER (the clone's first role, who
        needs no password there) and PGDATABASE, and the same as one string in DBSEC_CLONE_DSN. At PGPORT on 127.0.0.1
        the original's roles log in with their own passwords.
        """
        told = {
            "PGHOST": clone.host,
            "PGPORT": str(clone.port),
            "PGUSER": clone.user,
            "PGDATABASE": clone.dbname,
            "DBSEC_CLONE_DSN": clone.text(),
        }
        try:
            process.run(
                ["/bin/sh", "-c", self.command],
                cwd=self.folder,
                env={**self.environment, **told},
                timeout_s=self.timeout_s,
            )
        except ProgramError as exc:
            return exc.message.replace("'sh'", "it", 1)[:500]
        return ""
