"""Migration: a guard against slips, a runner that never queues, and a column encrypted while two releases serve."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg

from dbsec import files
from dbsec.crypto.access import allow
from dbsec.demo import plaintext
from dbsec.demo.by_command import Command
from dbsec.demo.chapter import Chapter, Seen
from dbsec.demo.release_change import QUIET_S, ReleaseChange
from dbsec.demo.release_traffic import ReleaseTraffic
from dbsec.demo.stage import Stage
from dbsec.demo.tenant_keys import TOKEN, TenantKeys
from dbsec.evidence import Control, Drill, Observation, Outcome
from dbsec.migrations.drill import Deploy, MigrationTarget
from dbsec.migrations.drill import drills as attacks
from dbsec.migrations.guard import Policy, install, selftest
from dbsec.pg import Conninfo, connect, own

GUARD = Control(
    "MIG-GUARD",
    "The guard in the database holds, and lets CONCURRENTLY pass",
    "a guard that nobody tested refuses nothing, or refuses the way out too",
    ("NIST SP 800-53 CM-3", "NIST SP 800-53 CA-7"),
)
# The data of the demo is small: what a table of 100 MB would be in production, one of 1 MB is here.
_CONFIG = f"""
[migrations]
service = "orders"
quiet_s = {QUIET_S:g}
sample_gap_s = 30
standbys_have_clients = false

[migrations.guard]
max_table_size = "1MB"

[migrations.guard.protected]
table = ["app.tenants", "app.users", "app.orders", "app.idempotency_keys"]
"""


def drills(stage: Stage) -> Sequence[Drill]:
    """Change the schema as one does in a hurry: by hand, from a file, behind a reader."""
    target = MigrationTarget(
        migrator=lambda: _migrator(stage),
        reader=lambda: stage.login("service"),
        admin=lambda: stage.login("admin"),
        deploy=stage.deploy or _by_hand(stage),
    )
    return [*attacks(target), Drill(plaintext.GONE, "look for one phone in every file", lambda: plaintext.look(stage))]


def harden(stage: Stage) -> Iterator[Seen]:
    """Install the guard and dbsec's tables, then encrypt app.users.phone from release blue to release green."""
    home = _home(stage)
    files.write_atomic(home / "dbsec.toml", _CONFIG)
    files.write_atomic(home / "migrator.dsn", _migrator(stage).text())
    with stage.admin() as admin:
        own.install(admin, users=["app_migrator", "app_owner"])
        allow(admin, "app_readwrite")
        install(admin, Policy.load(home / "dbsec.toml"))
    stage.keys = keys = TenantKeys.make(stage)
    files.write_atomic(home / "kms.token", keys.token.reveal())
    with stage.admin() as admin:
        yield GUARD, "the guard's own test on the live server", _tested(admin)
    folder = home / "encrypt_phone"
    shutil.copytree(stage.deployment / "db/encrypt_phone", folder)
    env = {**keys.settings, TOKEN: f"file:{home / 'kms.token'}", "APP_DSN": f"file:{home / 'migrator.dsn'}"}
    command = Command(home, stage.deployment, env)
    if stage.service is not None and stage.load is not None:
        traffic = ReleaseTraffic(stage.load, stage.progress, stage.service.base_url)
        yield from ReleaseChange(stage, command, folder, keys, traffic).run()
        stage.progress.step("app.users is written anew")
        command.run("migrate rewrite", "app.users", "--apply", "--keep-days", str(plaintext.KEEP_DAYS))
    stage.deploy = _by_command(command, folder)


def _home(stage: Stage) -> Path:
    home = stage.lab.folder / "migrations"
    files.make_folder(home, mode=0o700)
    return home


def _migrator(stage: Stage) -> Conninfo:
    """Return how the schema is changed: with a client certificate, which is asked for after chapter transit."""
    login, home = stage.login("migrator"), _home(stage)
    certificate, key = home / f"{login.user}.crt", home / f"{login.user}.key"
    if not key.exists():
        stage.lab.site.authority.issue_client(login.user).save(home, login.user)
    return login.but(sslcert=certificate, sslkey=key)


def _tested(admin: psycopg.Connection[Any]) -> Observation:
    proofs = selftest(admin)
    bad = [proof for proof in proofs if proof.outcome in (Outcome.FAIL, Outcome.ERROR)]
    rows = [[proof.name, str(proof.outcome), proof.reason] for proof in proofs]
    table = {"type": "table", "title": "What the guard refuses, and what it lets pass", "rows": rows}
    summary = f"{len(proofs)} proofs, {len(bad)} do not hold" if bad else f"all {len(proofs)} proofs hold"
    outcome = Outcome.FAIL if bad else Outcome.PASS
    return Observation(outcome, summary, {"proofs": len(proofs)}, [{**table, "columns": ["proof", "outcome", "seen"]}])


def _by_hand(stage: Stage) -> Deploy:
    """Return how it is done as found: the file is sent to the database, and that is all."""

    def deploy(_: str, text: str) -> None:
        with connect(_migrator(stage), application_name="psql") as session:
            session.execute(text.encode())

    return deploy


def _by_command(command: Command, folder: Path) -> Deploy:
    """Return how it is done from now on: the file gets the next number in the folder, and dbsec runs it."""

    def deploy(name: str, text: str) -> None:
        last = max(int(path.name[:3]) for path in folder.glob("[0-9]*"))
        file = folder / f"{last + 1:03}_{name}"
        files.write_atomic(file, text)
        try:
            command.run("migrate up", folder, "--release", "green", "--config", "dbsec.toml")
        except BaseException:
            file.unlink()
            raise

    return deploy


CHAPTER = Chapter(
    name="migration",
    order=40,
    title="Safe migrations",
    summary=(
        "Event triggers refuse what blocks or loses, the linter refuses it before, and no change of the schema makes "
        "the service wait. Then phones are encrypted on the live table while two releases serve, there and back."
    ),
    drills=drills,
    harden=harden,
)
