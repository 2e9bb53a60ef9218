"""``make drill``: every restore drill on servers of its own: the lab's PostgreSQL, S3 and OpenBao; and pgBackRest's.

Evidence comes into ``dbsec-report-drill/``. Exit code: the worst of the drills.
"""

from __future__ import annotations

import configparser
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString
from urllib.parse import urlencode, urlsplit

from dbsec import files, process, retry
from dbsec.cli.home import home
from dbsec.errors import ProgramMissing
from dbsec.kms import open_admin
from dbsec.lab import account, dataset, lab, ports
from dbsec.lab.dataset import Scale
from dbsec.lab.lab import Lab
from dbsec.lab.site import must_live
from dbsec.pg import connect
from dbsec.process import Account
from dbsec.progress import Lines
from dbsec.testing.clusters import Clusters
from dbsec.testing.stanza import NAME, Stanza, stanza

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "dbsec-report-drill"
DBSEC = [sys.executable, "-P", "-m", "dbsec"]
DATABASE = "app"
KEK = "dbsec-drill"
OBJECTIVES = "[objectives]\nrpo_s = 30\nrto_s = 120\n"
progress = Lines(sys.stderr)


def sql(made: Lab, *statements: LiteralString) -> None:
    with connect(made.admin.but(dbname=DATABASE)) as session:
        for statement in statements:
            session.execute(statement)


class Own:
    """The lab's cluster with a repository in its S3 under a KEK in its OpenBao."""

    def __init__(self, made: Lab) -> None:
        self.made = made
        self.folder = made.folder / "backups"
        self.socket = made.site.subfolder("wal") / "archiver.sock"
        self.account = () if made.site.account.is_current else ("--account", made.site.account.name)

    def configure(self) -> None:
        files.make_folder(self.folder, mode=0o700)
        admin = self.made.admin.but(dbname=DATABASE)
        files.write_atomic(self.folder / "primary", admin.text())
        files.write_atomic(self.folder / "standby", admin.but(port=self.made.standby.port).text())
        facts = self.made.site.state.facts
        bao = urlsplit(facts["openbao"]["address"])
        kms = f"vault-transit://{bao.netloc}/transit/{KEK}?ca={self.made.site.ca_path}&token=file:{facts['openbao']['token']}"
        open_admin(kms, environ={}).create()
        told = {"store": self.store(), "kms": kms, "dsn": f"file:{self.folder}/primary"}
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in told.items())
        files.write_atomic(self.folder / "dbsec.toml", f"[backup]\n{lines}\n{OBJECTIVES}")

    def store(self) -> str:
        told = self.made.site.state.facts["objectstore"]
        read = configparser.ConfigParser(interpolation=None)
        read.read(told["credentials"])
        query = {"endpoint": told["address"], "region": "us-east-1", "ca": str(self.made.site.ca_path)}
        for ours, theirs in (("access_key_id", "aws_access_key_id"), ("secret_access_key", "aws_secret_access_key")):
            files.write_atomic(self.folder / ours, read["default"][theirs])
            query[ours] = f"file:{self.folder / ours}"
        return f"s3://{told['bucket']}/drill?{urlencode(query, safe='/:')}"

    def dbsec(self, *words: str | Path) -> str:
        argv = [*DBSEC, "backup", *words, "--config", self.folder / "dbsec.toml"]
        return process.run(argv, cwd=self.folder, timeout_s=600)

    def archive(self) -> None:
        """Archive through a resident process; a segment each five seconds bounds what an idle server can lose."""
        self.dbsec("init")
        site = self.made.site
        config = ("--config", self.folder / "dbsec.toml")
        argv = [*DBSEC, "backup", "wal", "archiver", "--socket", self.socket, *self.account, *config]
        pid, log = site.start("archiver", argv, ports={}, account=Account.current()), site.folder / "logs/archiver.log"

        def serves() -> bool:
            must_live(pid, "the archiver", log)
            return "serving" in process.last_lines(log)

        retry.wait_until(serves, within_s=30, what="the archiver to serve")
        client = [*DBSEC, "backup", "wal", "client", self.socket.parent, "--socket", self.socket, *self.account]
        said = process.run([*client, "--format", "json"], cwd=self.folder)
        command = json.loads(said)["result"]["archive_command"]
        self.made.primary.configure({"archive_command": command, "archive_timeout": "5s", "summarize_wal": "on"})
        self.made.primary.reload()

    def back_up(self) -> None:
        """Take what each scenario starts from: sealed before a rotation, from the standby, full, incremental."""
        self.dbsec("take", "--label", "before the rotation")
        self.dbsec("rekey", "--rotate-kek", "--apply")
        self.dbsec("take", "--label", "standby", "--dsn", f"file:{self.folder}/standby")
        self.dbsec("take", "--label", "full")
        sql(self.made, "UPDATE app.orders SET amount_cents = amount_cents + 1 WHERE id % 50 = 0")
        self.dbsec("take", "--label", "incremental", "--incremental")

    def drill(self, evidence: Path) -> int:
        """Rehearse all scenarios, and let the service run on each clone."""
        site = self.made.site
        smoke = shlex.join([sys.executable, str(ROOT / "scripts/smoke.py"), str(self.folder / "tenant.json")])
        argv = ["--config", self.folder / "dbsec.toml", "--scratch", site.subfolder("clones"), "--smoke", smoke]
        return drill(site.account, self.made.primary.binaries.folder, evidence, *argv)


@contextmanager
def own() -> Iterator[Own]:
    folder = home() / "drill"
    made = lab.up(lab.Plan(folder, home() / "programs"), progress=progress)
    try:
        with connect(made.admin) as session:
            session.execute(f"CREATE DATABASE {DATABASE}")
        with connect(made.admin.but(dbname=DATABASE)) as session:
            tenant = dataset.create(session, Scale.SMALL, seed=7, progress=progress).tenants[0]
        there = Own(made)
        there.configure()
        told = {"tenant": tenant.slug, "api_key": tenant.api_key.reveal(), "user": tenant.user_ids[0]}
        files.write_atomic(there.folder / "tenant.json", json.dumps(told))
        yield there
    finally:
        lab.down(folder)


def drill(who: Account, programs: Path, evidence: Path, *options: str | Path) -> int:
    """Run ``dbsec backup drill``, whose table goes to our stdout."""
    mine = [] if who.is_current else ["--owner", who.name]
    argv = [*DBSEC, "backup", "drill", "--bindir", programs, *mine, "--evidence", evidence, *options]
    argv += ["--set", "shared_buffers=128MB"]
    return subprocess.run([str(word) for word in argv], cwd=ROOT, check=False).returncode


def of_pgbackrest(evidence: Path) -> int:
    """Rehearse a repository that Debian's pgBackRest has made of PostgreSQL 15; 0 where these are not installed."""
    who = account.server_account(progress)
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        root.chmod(0o755)
        clusters = Clusters(root, 15, account=who, free_port=lambda: ports.free(1)[0], unpacked=ROOT / ".extra/root")
        try:
            with stanza(clusters, root) as there:
                return _stanza(there, root, evidence)
        except ProgramMissing as exc:
            progress.step(f"pgBackRest's repository is left out: {exc.message}; {exc.hint}")
            return 0
        finally:
            clusters.close()


def _stanza(there: Stanza, root: Path, evidence: Path) -> int:
    files.write_atomic(root / "dsn", there.cluster.admin.text())
    files.write_atomic(root / "dbsec.toml", OBJECTIVES)
    told = ["--config", root / "dbsec.toml", "--dsn", f"file:{root}/dsn", "--scratch", there.folder]
    told += ["--pgbackrest", NAME, "--pgbackrest-config", there.folder / "pgbackrest.conf"]
    return drill(there.cluster.account, there.cluster.instance.binaries.folder, evidence, *told)


def main() -> int:
    REPORT.mkdir(exist_ok=True)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    with own() as there:
        there.archive()
        there.back_up()
        codes = [there.drill(REPORT / f"own-{stamp}.jsonl")]
    codes.append(of_pgbackrest(REPORT / f"pgbackrest-{stamp}.jsonl"))
    progress.step(f"evidence: {REPORT.name}/*-{stamp}.jsonl")
    return next((code for code in (1, 3, 2) if code in codes), max(codes))


if __name__ == "__main__":
    sys.exit(main())
