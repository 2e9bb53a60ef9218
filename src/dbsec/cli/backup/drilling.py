"""``dbsec backup drill``: restore a clone, compare every row with a witness, measure RPO and RTO."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsec.cli import output
from dbsec.cli.backup import _drilled as view
from dbsec.cli.backup import _options as options
from dbsec.cli.migrate import inputs
from dbsec.cli.migrate.options import As
from dbsec.cli.output import Format
from dbsec.errors import ProgramMissing, UsageError

if TYPE_CHECKING:
    from dbsec.backup.drill.archive import Archive
    from dbsec.backup.drill.clone import Place
    from dbsec.backup.drill.scenarios import Scenario
    from dbsec.config import Config
    from dbsec.pg import Conninfo
    from dbsec.pg.binaries import Binaries
    from dbsec.process import Account

_SCENARIOS = ("current-key", "old-key", "incremental", "standby", "before-delete")
_PASSED_ON = ("PATH", "HOME", "LANG", "VIRTUAL_ENV")


def add(command: typer.Typer) -> None:
    """Add ``drill``."""
    command.command()(drill)


def drill(
    config: options.File = None,
    dsn: options.Dsn = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option("--scenario", metavar="NAME", help=f"{', '.join(_SCENARIOS)}: several may be told; else all."),
    ] = None,
    tables: Annotated[
        str, typer.Option(metavar="NAMES", help="app.users,app: what is locked and compared; else every table.")
    ] = "",
    smoke: Annotated[
        str, typer.Option(metavar="COMMAND", help="The service's test of a clone, for sh: $DBSEC_CLONE_DSN, $PGHOST …")
    ] = "",
    scratch: Annotated[Path, typer.Option(metavar="DIR", help="Where clones live; as large as the cluster.")] = Path(
        "/var/tmp"  # noqa: S108 a folder of a name that nobody knows is made there
    ),
    owner: Annotated[str | None, typer.Option(metavar="NAME", help="Who runs the clone; root must name it.")] = None,
    bindir: Annotated[Path | None, typer.Option(metavar="DIR", help="PostgreSQL's programs, of its major.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Of the clone: shared_buffers=128MB.")
    ] = None,
    lock_timeout: Annotated[
        str, typer.Option(metavar="SPAN", help="How long one request for the SHARE locks may keep writers waiting.")
    ] = "1500ms",
    lock_within: Annotated[
        str, typer.Option(metavar="SPAN", help="For how long the locks are asked for again and again.")
    ] = "60s",
    pgbackrest: Annotated[
        str, typer.Option(metavar="STANZA", help="Rehearse a repository of pgBackRest instead of [backup].")
    ] = "",
    pgbackrest_config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="pgBackRest's own configuration; else where it looks for it.")
    ] = None,
    evidence_file: view.File = None,
    form: As = Format.TEXT,
) -> None:
    """Rehearse restores: a restore point with a witness, a clone that is restored to it, amcheck, every row compared.

    The server of --dsn goes on serving: tables are locked against writers for some milliseconds, with a lock_timeout.
    'before-delete' makes a schema of its own there, empties a table in it, and drops it. RPO and RTO are judged against
    [objectives]. Exit code 0: proven; 1: a restore failed, or was beyond an objective; 3: could not tell.
    """
    from dbsec.backup.drill.rehearsing import Site, rehearse
    from dbsec.backup.drill.witness import Patience

    chosen = _scenarios(scenario or [])
    loaded = options.config_of(config)
    who = options.owner(owner, scratch)
    place = _place(scratch, who, smoke, setting or [])
    patience = Patience(timedelta(seconds=inputs.span_s(lock_timeout)), timedelta(seconds=inputs.span_s(lock_within)))
    archive, server = _archive(loaded, dsn, place.account, bindir, pgbackrest, pgbackrest_config)
    wanted = [name.strip() for name in tables.split(",") if name.strip()]
    with inputs.refusals(), ExitStack() as stack:
        record = stack.enter_context(view.recording(evidence_file))
        with output.progress() as progress:
            site = Site(archive, server, place, loaded.objectives, wanted, patience, progress)
            done = [record(one) for one in rehearse(site, chosen)]
    view.tell(done, loaded.objectives, form)
    raise typer.Exit(view.exit_code(done))


def _scenarios(named: list[str]) -> list[Scenario]:
    from dbsec.backup.drill.scenarios import Scenario

    for name in named:
        if name not in _SCENARIOS:
            raise UsageError(f"there is no scenario '{name}'", hint=f"--scenario of {', '.join(_SCENARIOS)}")
    return [Scenario(name) for name in dict.fromkeys(named or _SCENARIOS)]


def _place(scratch: Path, who: Account | None, smoke: str, settings: list[str]) -> Place:
    from dbsec.backup.drill.clone import Place
    from dbsec.backup.drill.smoke import Smoke
    from dbsec.process import Account

    pairs = [one.partition("=") for one in settings]
    if bad := [name for name, sign, _ in pairs if not (name and sign)]:
        raise UsageError(f"'{bad[0]}' is no NAME=VALUE", hint="--set shared_buffers=128MB")
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return Place(
        scratch.absolute(),
        who or Account.current(),
        _free_port,
        Smoke(smoke, Path.cwd(), passed) if smoke else None,
        {name: value for name, _, value in pairs},
    )


def _free_port() -> int:
    from dbsec.lab import ports

    return ports.free(1)[0]


def _archive(
    loaded: Config, dsn: str | None, account: Account, bindir: Path | None, stanza: str, stanza_config: Path | None
) -> tuple[Archive, Conninfo]:
    """Return what is rehearsed, and the server whose backups it holds. Errors: ``ConfigError``, ``ProgramMissing``."""
    from dbsec.backup import settings as tables
    from dbsec.backup.drill.own import OwnArchive
    from dbsec.backup.drill.pgbackrest import PgBackRest

    settings = tables.of(loaded)
    server = options.server(settings, dsn)
    if not stanza:
        if stanza_config is not None:
            raise UsageError("--pgbackrest-config is of a stanza", hint="--pgbackrest STANZA")
        options.repository(settings)  # what cannot be opened at all is told before the server is asked for anything
        return OwnArchive(lambda: options.repository(settings), _programs(bindir)), server
    program = shutil.which("pgbackrest")
    if program is None:
        raise ProgramMissing("pgbackrest is not installed", hint="apt-get install pgbackrest")
    config = stanza_config.absolute() if stanza_config else None
    return PgBackRest(stanza, server, account, _programs(bindir), config, Path(program)), server


def _programs(bindir: Path | None) -> Callable[[str], Binaries]:
    from dbsec.backup.restoring.programs import find_programs

    def programs(version: str) -> Binaries:
        found = find_programs(version, bindir)
        if found is None:
            major = version.partition(".")[0]
            raise ProgramMissing(
                f"there are no programs of PostgreSQL {major} to run a clone with",
                hint=f"--bindir DIR, or apt-get install postgresql-{major}",
            )
        return found

    return programs
