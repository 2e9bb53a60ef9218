"""A repository of pgBackRest with a server that archives into it, for tests and for ``make drill``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

from dbsec import files
from dbsec.backup.drill.pgbackrest import PgBackRest
from dbsec.errors import ProgramMissing
from dbsec.pg import connect
from dbsec.testing.clusters import Cluster, Clusters

NAME = "bank"
_CONFIG = """
[global]
repo1-path={folder}/repo
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=of-a-test-and-of-nothing-else
compress-type=zst
log-level-file=off
lock-path={folder}/lock
spool-path={folder}/spool
start-fast=y
job-retry=0
[bank]
pg1-path={data}
pg1-port={port}
pg1-socket-path={folder}
pg1-user=postgres
"""


@dataclass(frozen=True)
class Stanza:
    """``folder`` is the account's and holds repository, configuration and the server's socket."""

    cluster: Cluster
    folder: Path
    archive: PgBackRest

    def sql(self, *statements: LiteralString) -> list[Any]:
        """Run statements, each a transaction, and return the rows of the last."""
        with connect(self.cluster.admin) as session:
            for statement in statements:
                done = session.execute(statement)
            return done.fetchall() if done.description else []


@contextmanager
def stanza(clusters: Clusters, root: Path) -> Iterator[Stanza]:
    """Make a server with 4,000 rows, a full and an incremental backup of it. Errors: ``ProgramMissing``."""
    program = shutil.which("pgbackrest")
    if program is None:
        raise ProgramMissing("pgBackRest is not installed", hint="make setup-extra")
    folder = root / f"stanza-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    cluster = clusters.create(archive_mode="on", archive_timeout="1s", autovacuum="off")
    try:
        yield _filled(cluster, folder, Path(program))
    finally:
        cluster.instance.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _filled(cluster: Cluster, folder: Path, program: Path) -> Stanza:
    instance = cluster.instance
    owner = None if cluster.account.is_current else (cluster.account.uid, cluster.account.gid)
    files.make_folder(folder, mode=0o700, owner=owner)
    config = folder / "pgbackrest.conf"
    archive = PgBackRest(NAME, cluster.admin, cluster.account, lambda _: instance.binaries, config, program)
    made = Stanza(cluster, folder, archive)
    text = _CONFIG.format(folder=folder, data=instance.data, port=instance.port)
    files.write_atomic(config, text, owner=owner)
    instance.write("pg_hba.conf", "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    push = f'{program} --config={config} --stanza={NAME} archive-push "%p"'
    instance.configure({"archive_command": push, "unix_socket_directories": str(folder)})
    instance.stop()
    instance.start()
    made.sql(
        "CREATE TABLE account (id int PRIMARY KEY, cents int8)",
        "INSERT INTO account SELECT i, i * 7 FROM generate_series(1, 3000) AS i",
    )
    made.archive.command("stanza-create")
    made.archive.command("backup", "--type=full")
    made.sql("UPDATE account SET cents = 0 WHERE id % 9 = 0")
    made.archive.command("backup", "--type=incr")
    made.sql("INSERT INTO account SELECT i, i FROM generate_series(3001, 4000) AS i")
    return made
