"""``dbsec`` as a team runs it on its database: a command of its own, with its exit code, its text and its JSON."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbsec import process, retry
from dbsec.errors import DbsecError, ProgramError


class Refused(DbsecError):
    """The command said no; ``code`` is its exit code."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.code = code


@dataclass(frozen=True, slots=True)
class Command:
    """Runs commands on one database. ``home`` holds ``migrator.dsn`` and ``dbsec.toml``, both private to us.

    ``env`` is what a backfill's function needs, as references; ``path`` is where its module lies.
    """

    home: Path
    path: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def run(self, command: str, on: Path | str, *options: str, timeout_s: float = 180) -> dict[str, Any]:
        """Run ``migrate up``, ``backfill verify`` and so on, and return its result. Errors: ``Refused``."""
        argv = self._argv(command, on, *options, "--format", "json")
        try:
            said = process.run(argv, cwd=self.home, env=self._env, timeout_s=timeout_s)
        except ProgramError as exc:
            if exc.code is None or exc.code < 0:
                raise
            raise Refused(exc.code, exc.tail) from exc
        return dict(json.loads(said)["result"])

    def killed(
        self, command: str, on: Path | str, *options: str, when: Callable[[str], bool], within_s: float = 60
    ) -> bool:
        """Start one, and end it by SIGKILL once ``when`` holds of its log; False where it had ended before.

        Errors: ``GaveUp``.
        """
        log = self.home / "killed.log"
        log.unlink(missing_ok=True)
        child = process.spawn(self._argv(command, on, *options), cwd=self.home, log=log, env=self._env)
        try:
            retry.wait_until(
                lambda: when(log.read_text()) or not child.alive,
                within_s=within_s,
                every_s=0.002,
                what=f"the moment to kill '{command}'",
            )
        finally:
            killed = process.stop(child, ladder=((signal.SIGKILL, 10.0),))
        return killed

    def _argv(self, command: str, on: Path | str, *options: str) -> list[str | Path]:
        dsn = f"file:{self.home / 'migrator.dsn'}"
        argv: list[str | Path] = [sys.executable, "-P", "-m", "dbsec", *command.split(), on]
        return [*argv, "--dsn", dsn, *options]

    @property
    def _env(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.path), "PYTHONDONTWRITEBYTECODE": "1", **self.env}
