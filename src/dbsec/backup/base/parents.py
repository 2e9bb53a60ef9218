"""What an incremental backup builds on: its parent, whose manifest the server is given. PostgreSQL 17 and later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dbsec.backup import catalog
from dbsec.backup.base.options import TakeOptions
from dbsec.backup.base.replication import Replication
from dbsec.backup.catalog import Backup
from dbsec.backup.repository import Repository
from dbsec.errors import UsageError
from dbsec.progress import Progress

EARLIEST: Final = 17
_FULL: Final = "dbsec backup take"
_STAMP: Final = len("20261124T101500Z")


def parent_of(repository: Repository, options: TakeOptions) -> Backup | None:
    """Return the backup to build on; None for a full one. Errors: ``UsageError``; those of ``catalog.get_backup``."""
    if not options.incremental:
        if options.parent:
            raise UsageError("a full backup has no parent", hint=f"{_FULL} --incremental --parent {options.parent}")
        return None
    if options.parent:
        return catalog.get_backup(repository, options.parent)
    whole = [backup for backup, finished in catalog.ids(repository).items() if finished]
    if not whole:
        raise UsageError("there is no backup yet that an incremental one could build on", hint=_FULL)
    # ids tell seconds: of those begun in the same one, the parent is the one that has seen the most
    same = [catalog.get_backup(repository, backup) for backup in whole if backup[:_STAMP] == whole[-1][:_STAMP]]
    return max(same, key=lambda backup: backup.start)


def check_parent(session: Replication, parent: Backup) -> None:
    """Refuse what the server would refuse later, with what to do. Errors: ``UsageError``."""
    if session.major < EARLIEST:
        raise UsageError(
            f"PostgreSQL {session.major} takes no incremental backups: {EARLIEST} and later do", hint=_FULL
        )
    if parent.server_version.partition(".")[0] != str(session.major):
        raise UsageError(
            f"backup '{parent.id}' is of PostgreSQL {parent.server_version}, and this server is {session.major}",
            hint=_FULL,
        )
    if session.show("summarize_wal") != "on":
        raise UsageError(
            "the server does not summarize its WAL: it cannot tell what has changed since another backup",
            hint=f"ALTER SYSTEM SET summarize_wal = on; SELECT pg_reload_conf(); then a full one: {_FULL}",
        )


def upload(session: Replication, repository: Repository, parent: Backup, progress: Progress) -> None:
    """Give the server the manifest of the parent. Errors: ``ConnectError``; those of ``Repository.get``."""

    def parts() -> Iterator[bytes]:
        for name in parent.manifest:
            yield repository.get(name)

    progress.step(f"the server gets the manifest of '{parent.id}'")
    session.upload("UPLOAD_MANIFEST", parts())
