"""Base backup, restore and archiving beside pgBackRest on one cluster: dbsec's two engines, pg_basebackup and cp.

Debian's PostgreSQL 15 (Debian's pgBackRest takes no newer), its own server with fsync on, a table of prose-like rows.
pgBackRest: two processes, zst, aes-256-cbc, repository on the same disk. Both sides are run as commands, Python's start
included; both wait until the WAL of the backup is archived. Ours verifies a restore by pg_verifybackup besides; each
restored folder is started and its rows are compared. Archiving: the server's own archiver works off a backlog of full
segments; pgBackRest once as it acknowledges itself (sync), once with its spool.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from _bench import arguments, last_line, show

from dbsec import retry
from dbsec.backup.wal import commands
from dbsec.kms.kek_file import Cost
from dbsec.kms.schemes.file_kek import FileKekAdmin
from dbsec.lab import account, ports
from dbsec.pg import connect
from dbsec.progress import Silent
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster, Clusters

ROWS_A_MB = 5200
FILL = """
CREATE TABLE filled AS
SELECT n AS id,
       md5(n::text) || ' ' || repeat(chr(97 + n % 26), 40) || md5((n * 7)::text) || md5((n % 1000)::text) AS prose
  FROM generate_series(1, {rows}) n
"""
CONTENT = b"SELECT count(*), sum(hashtextextended(f::text, 0))::text FROM filled f"
STANZA = """
[global]
repo1-path={folder}/repo
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass={passphrase}
repo1-retention-full=1
compress-type=zst
compress-level={level}
process-max=2
log-level-file=off
log-level-console=error
lock-path={folder}/lock
spool-path={folder}/spool
start-fast=y
archive-async={spooled}
[bench]
pg1-path={data}
pg1-port={port}
pg1-socket-path={folder}
pg1-user=postgres
"""
Act = Callable[[], None]


@dataclass
class Bench:
    """One cluster, our repository and theirs, all below ``folder``, which the server's account owns."""

    cluster: Cluster
    folder: Path
    environ: dict[str, str]
    content: Any = None
    taken: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "dbsec.toml"

    @property
    def socket(self) -> Path:
        return self.folder / "archiver.sock"

    def run(self, *argv: str | Path, as_server: bool = False) -> str:
        """Run a command; ``as_server`` under the server's account. What it says goes into the error."""
        who = self.cluster.account
        told = {} if who.is_current or not as_server else {"user": who.uid, "group": who.gid, "extra_groups": ()}
        done = subprocess.run(
            [str(one) for one in argv],
            cwd=self.folder,
            env={**os.environ, **self.environ, **self.cluster.instance.binaries.env},
            capture_output=True,
            text=True,
            check=False,
            **told,  # type: ignore[call-overload]
        )
        if done.returncode:
            raise SystemExit(f"{argv[0]} ended with {done.returncode}: {done.stdout[-800:]}{done.stderr[-800:]}")
        return str(done.stdout)

    def dbsec(self, *argv: str | Path) -> dict[str, Any]:
        said = self.run(sys.executable, "-m", "dbsec", "backup", *argv, "--config", self.config, "--format", "json")
        return dict(json.loads(said)["result"])

    def pgbackrest(self, verb: str, *argv: str, level: int = 3, spooled: bool = False) -> None:
        self.run("pgbackrest", f"--config={self.stanza(level, spooled)}", "--stanza=bench", *argv, verb, as_server=True)

    def stanza(self, level: int, spooled: bool) -> Path:
        return self.folder / f"pgbackrest-{level}-{'async' if spooled else 'sync'}.conf"

    def archive_by(self, command: str) -> None:
        """Let the server archive by another command from now on."""
        self.cluster.instance.configure({"archive_command": command})
        self.cluster.instance.reload()
        with connect(self.cluster.admin) as session:
            shown = lambda: session.execute("SHOW archive_command").fetchone() == (command or "(disabled)",)  # noqa: E731
            retry.wait_until(lambda: bool(command == "" or shown()), within_s=10, what="the new archive_command")

    def settle(self) -> None:
        """Wait until no WAL waits to be archived: a backup's own would wait behind it."""
        with connect(self.cluster.admin) as session:
            (last,) = session.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone() or ("",)
            _await_archived(session, last)

    def ours(self) -> str:
        """Return our archive_command."""
        python = commands.find_python(self.cluster.account)
        return commands.archive_command(self.socket, client=self.folder / commands.CLIENT, python=python)

    def theirs(self, level: int, spooled: bool = False) -> str:
        """Return pgBackRest's."""
        return f'pgbackrest --config={self.stanza(level, spooled)} --stanza=bench archive-push "%p"'


@contextmanager
def bench(megabytes: int) -> Iterator[Bench]:
    """Start everything, fill the table, and initialise both repositories."""
    if shutil.which("pgbackrest") is None:
        raise SystemExit("pgBackRest is not installed: make setup-extra")
    with tempfile.TemporaryDirectory() as made, ExitStack() as ended:
        root = Path(made)
        root.chmod(0o755)
        who = account.server_account(Silent())
        clusters = Clusters(root, 15, account=who, free_port=lambda: ports.free(1)[0])
        ended.callback(clusters.close)
        settings = {"fsync": "on", "shared_buffers": "256MB", "max_wal_size": "8GB", "archive_mode": "on"}
        cluster = clusters.create(**settings, autovacuum="off", checkpoint_timeout="1h", full_page_writes="on")
        folder = root / "bench"
        folder.mkdir(mode=0o755)
        kek = {"KEK": secrets.token_urlsafe(24)}
        made_bench = Bench(cluster, folder, kek)
        _prepare(made_bench)
        with connect(cluster.admin) as session:
            session.execute(FILL.format(rows=megabytes * ROWS_A_MB).encode())
            session.execute("CHECKPOINT")
            made_bench.content = session.execute(CONTENT).fetchone()
        ended.enter_context(_archiver(made_bench))
        made_bench.pgbackrest("stanza-create")
        try:
            yield made_bench
        except BaseException:
            print(cluster.instance.log.read_text()[-3000:], file=sys.stderr)
            raise


def _prepare(made: Bench) -> None:
    cluster, folder = made.cluster, made.folder
    FileKekAdmin(folder / "kek.json", lambda: Secret(made.environ["KEK"]), cost=Cost(2**14)).create()
    (folder / "store").mkdir(mode=0o700)
    dsn = folder / "dsn"
    dsn.write_text(cluster.admin.text())
    dsn.chmod(0o600)
    made.config.write_text(
        f'[backup]\nstore = "file://{folder}/store"\ndsn = "file:{dsn}"\n'
        f'kms = "file-kek:{folder}/kek.json?passphrase=env:KEK"\n'
    )
    commands.install_client(folder)
    word = secrets.token_urlsafe(16)
    for level in (1, 3):
        for spooled in (False, True):
            place = {"folder": folder, "data": cluster.instance.data, "port": cluster.instance.port}
            text = STANZA.format(**place, passphrase=word, level=level, spooled="y" if spooled else "n")
            made.stanza(level, spooled).write_text(text)
    if not cluster.account.is_current:
        shutil.chown(folder, cluster.account.uid, cluster.account.gid)
        for level in (1, 3):
            for spooled in (False, True):
                shutil.chown(made.stanza(level, spooled), cluster.account.uid)
    cluster.instance.write("pg_hba.conf", "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
                           "host replication all 127.0.0.1/32 scram-sha-256\n")  # fmt: skip
    cluster.instance.configure({"unix_socket_directories": str(folder)})
    cluster.instance.stop()
    cluster.instance.start()


@contextmanager
def _archiver(made: Bench) -> Iterator[None]:
    argv = [
        sys.executable,
        "-m",
        "dbsec",
        "backup",
        "wal",
        "archiver",
        "--config",
        made.config,
        "--socket",
        made.socket,
    ]
    argv += [] if made.cluster.account.is_current else ["--account", made.cluster.account.name]
    made.run(sys.executable, "-m", "dbsec", "backup", "init", "--config", made.config)
    with subprocess.Popen([str(one) for one in argv], env={**os.environ, **made.environ}, cwd=made.folder) as child:
        try:
            retry.wait_until(made.socket.exists, within_s=20, what="the archiver")
            yield
        finally:
            child.terminate()


def backups(made: Bench) -> dict[str, Act]:
    """Return the ways to take a full backup, each with its own archive_command."""
    plain = made.folder / "plain"

    def by_dbsec(engine: str) -> Act:
        def act() -> None:
            made.taken[engine] = made.dbsec("take", "--engine", engine)["id"]

        return act

    def by_pg_basebackup() -> None:
        where = made.cluster.admin
        program = made.cluster.instance.binaries.program("pg_basebackup")
        made.environ["PGPASSWORD"] = where.password.reveal()
        argv = ["-h", "127.0.0.1", "-p", str(where.port), "-U", where.user, "-D", str(plain), "-Ft", "-X", "none"]
        made.run(program, *argv, "-c", "fast", "--compress", "server-zstd:1")

    def by_cp() -> None:
        made.run("cp", "-a", made.cluster.instance.data, plain)
        made.run("sync", "-f", plain)

    return {
        "dbsec": by_dbsec("protocol"),
        "dbsec --engine ranges": by_dbsec("ranges"),
        "pgBackRest zst:3": lambda: made.pgbackrest("backup", "--type=full"),
        "pgBackRest zst:1": lambda: made.pgbackrest("backup", "--type=full", level=1),
        "pg_basebackup server-zstd:1": by_pg_basebackup,
        "cp -a, sync": by_cp,
    }


def timed(act: Act) -> float:
    """Return milliseconds."""
    began = time.monotonic()
    act()
    return (time.monotonic() - began) * 1000


def full_backups(made: Bench, rounds: int) -> dict[str, list[float]]:
    """Take a backup each way in turn."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, act in backups(made).items():
            ours = name.startswith("dbsec")
            made.archive_by(made.ours() if ours else made.theirs(3))
            made.settle()
            found.setdefault(name, []).append(timed(act))
            shutil.rmtree(made.folder / "plain", ignore_errors=True)
    return found


def restores(made: Bench, rounds: int) -> dict[str, list[float]]:
    """Restore each way in turn; what was restored is started, and its rows are compared, outside the measured time."""
    target, owner = made.folder / "restored", made.cluster.account.name
    bindir = made.cluster.instance.binaries.folder
    (port,) = ports.free(1)
    own = () if made.cluster.account.is_current else ("--owner", owner)

    def by_dbsec(engine: str, *more: str) -> Act:
        def act() -> None:
            told = ("--immediate", "--port", str(port), "--bindir", bindir, "--socket", made.socket)
            made.dbsec("restore", "--to", target, "--backup", made.taken[engine], *told, *own, *more)

        return act

    def by_cp() -> None:
        made.run("cp", "-a", made.cluster.instance.data, target)
        made.run("sync", "-f", target)

    ways: dict[str, Act] = {
        "dbsec": by_dbsec("protocol"),
        "dbsec --no-verify": by_dbsec("protocol", "--no-verify"),
        "dbsec, of ranges": by_dbsec("ranges"),
        "pgBackRest zst:3": lambda: made.pgbackrest("restore", f"--pg1-path={target}", "--type=immediate"),
        "cp -a, sync": by_cp,
    }
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, act in ways.items():
            if name.startswith("pgBackRest"):
                target.mkdir(mode=0o700)
                if not made.cluster.account.is_current:
                    shutil.chown(target, made.cluster.account.uid, made.cluster.account.gid)
            found.setdefault(name, []).append(timed(act))
            if not name.startswith("cp"):
                check(made, target, port)
            shutil.rmtree(target)
    return found


def check(made: Bench, target: Path, port: int) -> None:
    """Start what was restored and compare its rows. Ends the run where they differ."""
    instance = replace(made.cluster.instance, data=target, port=port, log=made.folder / "restored.log")
    instance.configure({"port": str(port), "archive_mode": "off"})
    instance.start(timeout_s=60)
    try:
        with connect(made.cluster.admin.but(port=port)) as session:
            if session.execute(CONTENT).fetchone() != made.content:
                raise SystemExit("a restored folder has other rows")
    finally:
        instance.stop()


def archiving(made: Bench, segments: int, rounds: int) -> dict[str, list[float]]:
    """Let the server work off a backlog each way in turn; milliseconds a segment."""
    copied = made.folder / "copied"
    ways = {
        "dbsec": made.ours(),
        "pgBackRest zst:3, sync": made.theirs(3),
        "pgBackRest zst:1, sync": made.theirs(1),
        "pgBackRest zst:3, spool": made.theirs(3, spooled=True),
        "cp, fsync": f"cp %p {copied} && sync {copied} && mv {copied} {made.folder}/wal/%f",
    }
    (made.folder / "wal").mkdir()
    if not made.cluster.account.is_current:
        shutil.chown(made.folder / "wal", made.cluster.account.uid)
    found: dict[str, list[float]] = {}
    with connect(made.cluster.admin) as session:
        for _ in range(rounds):
            for name, command in ways.items():
                made.archive_by("")
                last = _backlog(session, segments)
                began = time.monotonic()
                made.archive_by(command)
                _await_archived(session, last)
                found.setdefault(name, []).append((time.monotonic() - began) * 1000 / segments)
    return found


def _await_archived(session: Any, last: str) -> None:
    query = "SELECT last_archived_wal >= %s FROM pg_stat_archiver"
    retry.wait_until(
        lambda: session.execute(query, (last,)).fetchone() == (True,), within_s=120, what=f"'{last}' to be archived"
    )


def _backlog(session: Any, segments: int) -> str:
    """Write full segments of WAL that compress as that of updates does, and return the name of the last."""
    session.execute("CREATE TABLE IF NOT EXISTS churn (id int PRIMARY KEY, prose text)")
    session.execute("TRUNCATE churn")
    number = 0
    begun = session.execute("SELECT pg_current_wal_lsn()").fetchone()[0]
    done = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), %s) >= %s"
    while session.execute(done, (begun, segments * (16 << 20))).fetchone() != (True,):
        session.execute(
            "INSERT INTO churn SELECT n, (SELECT prose FROM filled WHERE id = 1) || md5(n::text)"
            " FROM generate_series(%s::int, %s::int) n",
            (number, number + 19999),
        )
        number += 20000
    (last,) = session.execute("SELECT pg_walfile_name(pg_current_wal_lsn())").fetchone()
    session.execute("SELECT pg_switch_wal()")
    return str(last)


def main() -> None:
    """Measure the three, print a table of each, and the line of JSON."""
    asked = arguments(__doc__ or "")
    megabytes, rounds, segments = (250, 1, 8) if asked.quick else (1000, 2, 10)
    with bench(megabytes) as made:
        full = full_backups(made, rounds)
        restored = restores(made, rounds)
        archived = archiving(made, segments, rounds)
    size = f"{megabytes} MB, PostgreSQL 15, median of {rounds}, load {os.getloadavg()[0]:.1f}"
    by_full = show(f"full backup: {size}", "ms", full, ours="dbsec")
    by_ranges = show(f"full backup, beside the ranges: {size}", "ms", full, ours="dbsec --engine ranges")
    by_restore = show(f"restore: {size}", "ms", restored, ours="dbsec")
    by_segment = show(f"archiving, a segment: {segments} of them", "ms", archived, ours="dbsec")
    last_line(
        asked.json,
        full_backup_wall_ratio_vs_pgbackrest=round(by_full["pgBackRest zst:3"], 2),
        full_backup_wall_ratio_vs_pgbackrest_zst1=round(by_full["pgBackRest zst:1"], 2),
        full_backup_ranges_wall_ratio_vs_pgbackrest=round(by_ranges["pgBackRest zst:3"], 2),
        full_backup_ranges_wall_ratio_vs_pgbackrest_zst1=round(by_ranges["pgBackRest zst:1"], 2),
        full_backup_wall_ratio_vs_pg_basebackup=round(by_full["pg_basebackup server-zstd:1"], 2),
        restore_wall_ratio_vs_pgbackrest=round(by_restore["pgBackRest zst:3"], 2),
        wal_segment_ms_ratio_vs_pgbackrest=round(by_segment["pgBackRest zst:3, sync"], 2),
        wal_segment_ms_ratio_vs_pgbackrest_spool=round(by_segment["pgBackRest zst:3, spool"], 2),
        load=round(os.getloadavg()[0], 1),
    )


if __name__ == "__main__":
    main()
