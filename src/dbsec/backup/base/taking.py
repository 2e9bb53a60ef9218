"""Takes base backups by one of the engines; the description, put last, makes one of what was put before."""

from __future__ import annotations

from dbsec.backup import catalog
from dbsec.backup.base.options import TakeOptions
from dbsec.backup.base.protocol import take_by_protocol
from dbsec.backup.catalog import Backup
from dbsec.backup.repository import Repository
from dbsec.clock import SYSTEM, Clock
from dbsec.pg import Conninfo
from dbsec.progress import Progress

__all__ = ["TakeOptions", "take"]


def take(
    repository: Repository, server: Conninfo, options: TakeOptions, *, progress: Progress, clock: Clock = SYSTEM
) -> Backup:
    """Take a base backup and return its description, which the store has.

    WAL is not waited for: ``awaiting.await_wal`` does. Killed or refused at any point before its end this leaves
    objects that no description names. Errors: those of the engines and of ``Repository.put``.
    """
    backup = catalog.new_id(clock.now())
    epoch = repository.keys.begin()
    if options.engine == "ranges":
        from dbsec.backup.base.ranges import take_by_ranges as engine
    else:
        engine = take_by_protocol
    taken = engine(repository, server, options, id=backup, epoch=epoch, progress=progress, clock=clock)
    return catalog.put_backup(repository, taken, epoch=epoch)
