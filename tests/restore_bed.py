"""A server whose WAL and base backups go into a repository, and copies that are restored from it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, LiteralString

from tests.backup_bed import Bed, bed_of

from dbsec.backup import Backup, Repository
from dbsec.backup.base.options import TakeOptions
from dbsec.backup.base.taking import take
from dbsec.backup.restoring import Plan, Restored, Target, parse_target, plan, restore
from dbsec.backup.wal import commands
from dbsec.backup.wal.names import Segment
from dbsec.backup.wal.serving import serve
from dbsec.lab import ports
from dbsec.pg import connect
from dbsec.pg.lsn import Lsn
from dbsec.progress import Progress, Silent
from dbsec.retry import wait_until
from dbsec.testing.clusters import Cluster


@dataclass
class Site:
    """``folder`` may be entered by the server's account; copies are made below it."""

    cluster: Cluster
    bed: Bed
    folder: Path
    client: Path
    python: Path
    copies: list[Path] = field(default_factory=list)

    @property
    def owner(self) -> tuple[int, int] | None:
        account = self.cluster.account
        return None if account.is_current else (account.uid, account.gid)

    def sql(self, *statements: LiteralString) -> list[Any]:
        """Run statements, each a transaction, and return the rows of the last."""
        with connect(self.cluster.admin) as session:
            for statement in statements:
                done = session.execute(statement)
            return done.fetchall() if done.description else []

    def take(self, **told: Any) -> Backup:
        return take(self.bed.repository, self.cluster.admin, TakeOptions(**told), progress=Silent())

    def archived(self) -> Lsn:
        """Switch to a new segment, wait until the repository has the last, and return where it ended."""
        ((end,),) = self.sql("SELECT pg_switch_wal()::text")
        segment_bytes = self.bed.repository and 16 << 20
        name = Segment.at(1, Lsn(Lsn.parse(end).value - 1), segment_bytes).name
        wait_until(
            lambda: self.sql("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver")[0][0] >= name,
            within_s=30,
            what=f"the archiver to have '{name}'",
        )
        return Lsn.parse(end)

    def plan(self, target: Target | None = None, *, backup: str = "", **told: Any) -> Plan:
        return plan(self.bed.again(), target or parse_target(told), backup=backup)

    def restore(
        self, wanted: Plan, *, name: str = "", repository: Repository | None = None, progress: Progress | None = None,
        **told: Any,
    ) -> Restored:  # fmt: skip
        """Restore to a folder of its own; the server on it is given WAL by ``copy``."""
        folder = self.folder / (name or f"copy-{len(self.copies)}")
        self.copies.append(folder)
        options: dict[str, Any] = {
            "restore_command": commands.restore_command(self.socket, client=self.client, python=self.python),
            "progress": progress or Silent(),
            "binaries": self.cluster.instance.binaries,
            "port": ports.free(1)[0],
            "owner": self.owner,
        }
        return restore(repository or self.bed.again(), wanted, folder, **{**options, **told})

    @property
    def socket(self) -> Path:
        return self.folder / "fetch.sock"

    @contextmanager
    def copy(self, restored: Restored, *, promoted: bool = True) -> Iterator[Cluster]:
        """Start a restored folder, and wait for its promotion; what it logs is in ``NAME.log`` beside it."""
        folder = restored.folder
        conf = (folder / "postgresql.auto.conf").read_text()
        port = int(conf.split("\nport = '")[1].split("'")[0])
        instance = replace(self.cluster.instance, data=folder, port=port, log=folder.with_name(f"{folder.name}.log"))
        made = replace(self.cluster, instance=instance, admin=self.cluster.admin.but(port=port))
        with serve(self.bed.again(), self.socket, verbs=("fetch",), owner=self.owner, settle_s=0):
            try:
                instance.start()
                if promoted:
                    with connect(made.admin) as session:
                        wait_until(
                            lambda: session.execute("SELECT pg_is_in_recovery()").fetchone() == (False,),
                            within_s=30,
                            what="the promotion",
                        )
                yield made
            finally:
                instance.destroy()


@contextmanager
def site(make: Callable[..., Cluster], server_root: Path, name: str, **settings: str) -> Iterator[Site]:
    """Make a server that archives into a repository of its own."""
    folder = server_root / f"{name}-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    cluster = make(archive_mode="on", **settings)
    (folder / "bed").mkdir(mode=0o700)
    bed = bed_of(cluster, folder / "bed")
    made = Site(cluster, bed, folder, commands.install_client(folder), commands.find_python(cluster.account))
    if made.owner is not None:
        os.chown(folder, *made.owner)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(serve(bed.repository, folder / "push.sock", owner=made.owner))
        told = commands.archive_command(folder / "push.sock", client=made.client, python=made.python)
        cluster.instance.configure({"archive_command": told})
        cluster.instance.reload()
        yield made
        cluster.instance.stop()
