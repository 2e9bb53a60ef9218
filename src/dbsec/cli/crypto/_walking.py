"""What reencrypt and migrate-from have in common: a walk over a column, throttled, and what is told of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbsec.cli import output
from dbsec.cli.crypto import _options as options
from dbsec.cli.output import Format

if TYPE_CHECKING:
    import psycopg

    from dbsec.backfill.throttle import Throttle
    from dbsec.crypto import CryptoSettings
    from dbsec.crypto.life.reencrypt import Reencrypted, Work
    from dbsec.crypto.life.rewriting import Reader
    from dbsec.progress import Progress


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says of a walk; ``reader`` is that of another library's format."""

    table: str
    column: str
    origin: str | None
    reader: Reader | None
    workers: int
    leave: bool
    verify: bool


class Walk:
    """A walk over a column of the settings."""

    def __init__(self, settings: CryptoSettings, dsn: str, asked: Asked, config: Path | None) -> None:
        from dbsec.crypto import open_envelope
        from dbsec.crypto.life import reencrypt

        self._settings = settings
        self._asked = asked
        self._config = config
        self._connect = options.opens(dsn)
        self._envelope = open_envelope(settings, self._connect, os.environ)
        with ExitStack() as stack:
            session = stack.enter_context(closing(self._connect()))
            self._work: Work = reencrypt.plan(
                session,
                self._envelope,
                settings.of(asked.table, asked.column),
                source=self._source(),
                keyring=stack.enter_context(self._keyring()),
                leave=asked.leave,
            )

    @property
    def name(self) -> str:
        return self._work.job.name

    def remaining(self) -> int:
        """Count the rows that need it."""
        from dbsec.crypto.life import reencrypt

        with closing(self._connect()) as session:
            return reencrypt.remaining(session, self._work)

    def run(self, progress: Progress) -> Reencrypted:
        """Do it. Errors: those of ``reencrypt.run``."""
        from dbsec.crypto.life import reencrypt

        with self._throttle() as throttle:
            return reencrypt.run(
                self._connect,
                self._work,
                workers=self._asked.workers,
                throttle=throttle,
                verify=self._asked.verify,
                progress=progress,
            )

    def _source(self) -> Any:
        from dbsec.crypto.life.rewriting import Source, plain

        asked = self._asked
        if asked.origin is None:
            return Source(asked.column, asked.reader)
        ours = any((one.table, one.column) == (asked.table, asked.origin) for one in self._settings.columns)
        return Source(asked.origin, asked.reader or (None if ours and asked.origin != asked.column else plain))

    @contextmanager
    def _keyring(self) -> Iterator[psycopg.Connection[Any] | None]:
        """Open the keyring's database where it is another one."""
        from dbsec.crypto.opening import keyring_connect

        if not self._settings.keyring:
            yield None
            return
        with closing(keyring_connect(self._settings, self._connect, os.environ)()) as session:
            yield session

    @contextmanager
    def _throttle(self) -> Iterator[Throttle]:
        from dbsec.backfill import limits
        from dbsec.backfill.throttle import Throttle
        from dbsec.config import load

        here = Path("dbsec.toml")
        settings = limits.of_config(load(self._config or (here if here.exists() else None)))
        with Throttle(settings, self._connect, table=self._work.job.table) as throttle:
            yield throttle


def tell_plan(command: str, name: str, remaining: int, form: Format) -> None:
    """Tell what would be done."""
    if form is Format.JSON:
        output.envelope(f"crypto {command}", result={"applied": False, "job": name, "remaining": remaining})
    else:
        print(f"{name}: {remaining:,} rows need it; --apply does it")


def tell(command: str, done: Reencrypted, form: Format, **more: Any) -> None:
    """Tell what became of a column."""
    left = [{"key": list(key), "why": why} for key, why in done.left.items()]
    if form is Format.JSON:
        told = {"job": done.job, "state": str(done.state), "visited": done.visited, "changed": done.changed}
        told |= {"passes": done.passes, "remaining": done.remaining, "seconds": round(done.seconds, 1), "left": left}
        judged = done.verified.to_json() if done.verified is not None else None
        output.envelope(f"crypto {command}", result={"applied": True, **told, "verified": judged, **more})
        return
    proven = "" if done.verified is None else ", verified" if done.verified.clean else ", NOT as they should be"
    print(f"{done.job}: {done.changed:,} rows written{proven}; {done.remaining:,} still need it")
    for one in left:
        print(f"dbsec: left: {one['why']}", file=sys.stderr)
