"""The repository of the lab's cluster: KEK in OpenBao, objects in S3, and the commands that a team runs on it."""

from __future__ import annotations

import configparser
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from psycopg import sql

from dbsec import files, process, retry
from dbsec.backup import BackupSettings, settings
from dbsec.config import load
from dbsec.demo.by_command import Refused
from dbsec.demo.stage import Stage
from dbsec.demo.tenant_keys import bao_token
from dbsec.errors import ProgramError
from dbsec.kms import open_admin
from dbsec.lab.site import must_live
from dbsec.process import Account
from dbsec.secret import Secret

KEK = "dbsec-backup"
_POLICY = f"""
path "transit/encrypt/{KEK}*" {{ capabilities = ["update"] }}
path "transit/decrypt/{KEK}*" {{ capabilities = ["update"] }}
path "transit/rewrap/{KEK}*"  {{ capabilities = ["update"] }}
path "transit/keys/{KEK}*"    {{ capabilities = ["read"] }}
"""


@dataclass(frozen=True, slots=True)
class Backups:
    """``home`` holds dbsec.toml and what it refers to, all private to us; ``socket`` is the archiver's."""

    home: Path
    socket: Path

    @classmethod
    def make(cls, stage: Stage) -> Backups:
        """Make the KEK, a token that may wrap and unwrap, and the file that names both. Errors: ``KmsError``."""
        home = stage.lab.folder / "backups"
        files.make_folder(home, mode=0o700)
        open_admin(admin_kms(stage, KEK), environ={}).create()
        files.write_atomic(home / "kms.token", bao_token(stage, "backup", _POLICY).reveal())
        for name, value in _s3_credentials(stage).items():
            files.write_atomic(home / name, value.reveal())
        made = cls(home, stage.lab.site.subfolder("wal") / "archiver.sock")
        made.tell(stage)
        return made

    @property
    def settings(self) -> BackupSettings:
        """What dbsec.toml says."""
        return settings.of(load(self.home / "dbsec.toml"))

    def archive(self, stage: Stage) -> None:
        """Make the repository, start the archiver, and let the primary archive through it. Errors: ``DbsecError``."""
        self.run("init")
        site = stage.lab.site
        mine = [] if site.account.is_current else ["--account", site.account.name]
        argv = self.argv("wal archiver", "--socket", self.socket, *mine)
        pid = site.start("archiver", argv, ports={}, account=Account.current())
        log = site.folder / "logs" / "archiver.log"

        def serves() -> bool:
            must_live(pid, "the archiver", log)
            return "serving" in process.last_lines(log)

        retry.wait_until(serves, within_s=30, what="the archiver to serve")
        client = self.run("wal client", self.socket.parent, "--socket", self.socket, *mine, config=False)["result"]
        with stage.admin() as admin:
            command = sql.SQL("ALTER SYSTEM SET archive_command = {}")
            admin.execute(command.format(sql.Literal(client["archive_command"])))
            admin.execute("SELECT pg_reload_conf()")

    def tell(self, stage: Stage) -> None:
        """Write dbsec.toml again, and the login that is in force now."""
        files.write_atomic(self.home / "replication.dsn", stage.login("admin").text())
        kms = f"{_kms(stage, KEK)}&token=file:{self.home / 'kms.token'}"
        lines = {"store": _store(stage, self.home), "kms": kms, "dsn": f"file:{self.home / 'replication.dsn'}"}
        text = "[backup]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items())
        files.write_atomic(self.home / "dbsec.toml", text)

    def run(self, command: str, *options: str | Path, timeout_s: float = 300, config: bool = True) -> dict[str, Any]:
        """Run ``dbsec backup COMMAND`` and return its result. Errors: ``Refused`` with its exit code."""
        try:
            said = process.run(
                self.argv(command, *options, "--format", "json", config=config), cwd=self.home, timeout_s=timeout_s
            )
        except ProgramError as exc:
            if exc.code is None or exc.code < 0:
                raise
            raise Refused(exc.code, exc.tail) from exc
        told: dict[str, Any] = json.loads(said)
        return told

    def argv(self, command: str, *options: str | Path, config: bool = True) -> list[str | Path]:
        """Return the whole command line of ``dbsec backup COMMAND``."""
        program: list[str | Path] = [sys.executable, "-P", "-m", "dbsec", "backup", *command.split()]
        return [*program, *(("--config", self.home / "dbsec.toml") if config else ()), *options]


def admin_kms(stage: Stage, kek: str) -> str:
    """Return the uri of a KEK with the administrator's token."""
    return f"{_kms(stage, kek)}&token=file:{_bao(stage)['token']}"


def _bao(stage: Stage) -> dict[str, Any]:
    return dict(stage.lab.site.state.facts["openbao"])


def _kms(stage: Stage, kek: str) -> str:
    address = httpx.URL(_bao(stage)["address"])
    return f"vault-transit://{address.host}:{address.port}/transit/{kek}?ca={stage.lab.site.ca_path}"


def _store(stage: Stage, home: Path) -> str:
    told = stage.lab.site.state.facts["objectstore"]
    query = {
        "endpoint": told["address"],
        "region": "us-east-1",
        "ca": str(stage.lab.site.ca_path),
        "access_key_id": f"file:{home / 's3.id'}",
        "secret_access_key": f"file:{home / 's3.key'}",
    }
    return f"s3://{told['bucket']}/cluster?" + "&".join(f"{name}={quote(value)}" for name, value in query.items())


def _s3_credentials(stage: Stage) -> dict[str, Secret]:
    read = configparser.ConfigParser(interpolation=None)
    read.read(stage.lab.site.state.facts["objectstore"]["credentials"])
    told = read["default"]
    return {"s3.id": Secret(told["aws_access_key_id"]), "s3.key": Secret(told["aws_secret_access_key"])}
