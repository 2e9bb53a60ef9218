"""What ``dbsec tls drill`` is run against, made of its options: PostgreSQL, PgBouncer or MariaDB."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbsec.cli.migrate import inputs
from dbsec.cli.tls.rotating import Kind
from dbsec.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from dbsec.evidence import Drill
    from dbsec.tls.ca import Authority
    from dbsec.tls.matrix import Bench, MariaBench, Pooler, Server
    from dbsec.tls.matrix.mariadb.login import Login


@dataclass(frozen=True, slots=True)
class Given:
    """The options, as they were given."""

    dsn: str
    ca: Path | None = None
    mtls: str | None = None
    admin: str | None = None
    data_dir: Path | None = None
    log: Path | None = None
    ini: Path | None = None
    console: str | None = None
    revoked: Path | None = None


@dataclass(frozen=True, slots=True)
class Ground:
    """Drills to run, and ``recover``: put back what one that was killed has left. ``bench``: of PostgreSQL's protocol.

    ``mutable``: its controls can be taken away.
    """

    drills: tuple[Drill, ...]
    mutations: tuple[Drill, ...]
    recover: Callable[[], bool]
    mutable: bool
    bench: Bench | None = None


def ground_of(kind: Kind, given: Given) -> Ground:
    """Read what the options name. Errors: ``UsageError``, ``ConfigError``."""
    from dbsec.tls import matrix

    if kind is Kind.MARIADB:
        from dbsec.tls.matrix.mariadb.bench import recover

        maria, theirs = _maria(given), matrix.mariadb_cases()
        drills, mutations = matrix.drills(lambda: maria, theirs), matrix.mutations(maria, theirs)
        return Ground(drills, mutations, lambda: recover(maria), maria.admin is not None)
    pooled = kind is Kind.PGBOUNCER
    bench, cases = _bench(given, pooled), matrix.pgbouncer_cases() if pooled else matrix.cases()
    drills, mutations = matrix.drills(lambda: bench, cases), matrix.mutations(bench, cases)
    mutable = bench.pooler is not None if pooled else bench.admin is not None and bench.server is not None
    return Ground(drills, mutations, lambda: matrix.recover(bench), mutable, bench)


def _bench(given: Given, pooled: bool) -> Bench:
    from dbsec.tls.matrix import Bench

    return Bench(
        inputs.conninfo_of(given.dsn),
        _authority(given.ca),
        inputs.conninfo_of(given.mtls) if given.mtls is not None else None,
        inputs.conninfo_of(given.admin) if given.admin is not None else None,
        _server(given),
        _pooler(given) if pooled else None,
    )


def _server(given: Given) -> Server | None:
    from dbsec.tls.data_folder import DataFolder
    from dbsec.tls.matrix import Server

    if given.data_dir is None and given.log is None:
        return None
    if given.data_dir is None:
        raise UsageError("--log goes with the server's files", hint="add --data-dir DIR and --admin REF")
    if given.admin is None:
        raise UsageError("--data-dir is of a server whose superuser is known", hint="add --admin REF")
    for path in (given.data_dir, given.log):
        if path is not None and not path.exists():
            raise ConfigError(f"'{path}' does not exist", hint="run this on the server, as its account")
    return Server(DataFolder(given.data_dir.absolute()), given.log.absolute() if given.log else None)


def _pooler(given: Given) -> Pooler | None:
    from dbsec.tls.matrix import Pooler

    if given.ini is None and given.console is None:
        return None
    if given.ini is None or given.console is None:
        raise UsageError("PgBouncer's file and its console go together", hint="--ini FILE --console REF")
    return Pooler(given.ini.absolute(), inputs.conninfo_of(given.console))


def _maria(given: Given) -> MariaBench:
    from dbsec.tls.issuers import placing
    from dbsec.tls.matrix import MariaBench

    revoked = given.revoked
    return MariaBench(
        _login(given.dsn),
        _authority(given.ca),
        _login(given.mtls) if given.mtls is not None else None,
        _login(given.admin) if given.admin is not None else None,
        placing.read(revoked.parent, revoked.name.removesuffix(".crt")) if revoked is not None else None,
    )


def _login(reference: str) -> Login:
    from dbsec.secret import resolve
    from dbsec.tls.matrix.mariadb.login import Login

    return Login.parse(resolve(reference, environ=os.environ))


def _authority(folder: Path | None) -> Authority | None:
    from dbsec.tls.ca import Authority

    return Authority.load(folder) if folder is not None else None
