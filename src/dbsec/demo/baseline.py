"""The honest bad deployment that the demo begins with: nothing here is exaggerated, all of it is seen in the field."""

from __future__ import annotations

import hashlib
import secrets
import shlex
from pathlib import Path

from psycopg import sql

from dbsec import process
from dbsec.demo.stage import DATABASE, Stage
from dbsec.lab import dataset, ports
from dbsec.lab.cluster import Profile
from dbsec.lab.dataset import Dataset, Scale
from dbsec.lab.lab import Lab
from dbsec.lab.site import SERVER_NAMES, Site
from dbsec.pg import Conninfo, connect
from dbsec.pg.hba import HbaLine, render
from dbsec.secret import Secret
from dbsec.tls.ca import self_signed

LEGACY = "app_legacy"
REPORT = "report"
OLD_BACKUP = "old-backup"
OLD_ARCHIVE = "old-archive"
_REPORTS = 3


def profile(_: Site) -> Profile:
    """Return a server whose TLS nobody can check, which also takes plaintext, with md5 passwords, for everyone."""
    pair = self_signed(SERVER_NAMES)
    loopback = f"{ports.LOOPBACK}/32"
    anyone = HbaLine("host", ("all",), ("all",), loopback, "md5")
    replicas = HbaLine("host", ("replication",), ("all",), loopback, "md5")
    return Profile(
        hba=render([anyone, replicas], header="as found: anyone, with or without TLS"),
        settings={
            "ssl": "on",
            "ssl_cert_file": "server.crt",
            "ssl_key_file": "server.key",
            "password_encryption": "md5",
        },
        files={"server.crt": pair.certificate, "server.key": pair.key},
        admin={"sslmode": "disable"},
    )


def logins(lab: Lab) -> dict[str, Conninfo]:
    """Return who logs in how: one superuser for the service and for every change of the schema."""
    legacy = lab.admin.but(dbname=DATABASE, user=LEGACY, sslmode="require", password=Secret(secrets.token_urlsafe(12)))
    return {
        "admin": lab.admin.but(dbname=DATABASE),
        "service": legacy,
        "migrator": legacy,
        "standby": lab.admin.but(dbname=None),
    }


def furnish(stage: Stage, scale: Scale, *, seed: int) -> Dataset:
    """Fill the deployment: database, the superuser that the service uses, data, a copy of the files, open sessions."""
    service = stage.login("service")
    report = service.but(user=REPORT, sslmode="disable", password=stage.password(REPORT))
    with connect(stage.lab.admin) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        for login, power in ((service, sql.SQL("SUPERUSER")), (report, sql.SQL("NOSUPERUSER"))):
            create = sql.SQL("CREATE ROLE {} LOGIN {} PASSWORD {}")
            admin.execute(create.format(sql.Identifier(login.user), power, _md5(login)))
    with connect(service) as owner:
        made = dataset.create(owner, scale, seed=seed, progress=stage.progress)
    _old_backup(stage)
    stage.visitors += [connect(report, application_name="report@2019") for _ in range(_REPORTS)]
    return made


def _md5(login: Conninfo) -> str:
    """Hash the password on the client, as PostgreSQL's md5 does, so that it does not cross the wire or reach a log."""
    clear = login.password.reveal() if login.password else ""
    return "md5" + hashlib.md5((clear + login.user).encode(), usedforsecurity=False).hexdigest()


def _old_backup(stage: Stage) -> None:
    """Archive with cp and take a plain base backup, as it is done where nobody ever restored one."""
    lab = stage.lab
    archive, backup = lab.site.subfolder(OLD_ARCHIVE), lab.site.subfolder(OLD_BACKUP)
    with stage.admin() as admin:
        command = f"cp %p {shlex.quote(str(archive)).replace('%', '%%')}/%f"
        admin.execute(sql.SQL("ALTER SYSTEM SET archive_command = {}").format(sql.Literal(command)))
        admin.execute("SELECT pg_reload_conf()")
    base_backup(stage, backup)


def base_backup(stage: Stage, folder: Path) -> None:
    """Copy the primary's files into an empty folder, without WAL, as whoever may replicate now."""
    lab, login = stage.lab, stage.login("standby")
    passfile = lab.site.write("secrets/backup.pgpass", login.passfile_line())
    source = Conninfo({**login.params, "passfile": str(passfile)})
    argv: list[str | Path] = [lab.primary.binaries.program("pg_basebackup"), "--dbname", source.text()]
    argv += ["--pgdata", folder, "--wal-method", "none", "--checkpoint", "fast", "--no-sync", "--no-manifest"]
    process.run(argv, cwd=lab.folder, account=lab.site.account, env=lab.primary.binaries.env)
