"""A DELETE without WHERE at a known moment, and a clone restored to just before it, on which the service runs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString

import httpx

from dbsec import retry
from dbsec.backup.archives import opens
from dbsec.clock import SYSTEM
from dbsec.config import Objectives
from dbsec.demo.backups import Backups
from dbsec.demo.chapter import Seen
from dbsec.demo.stage import Stage
from dbsec.errors import LabError
from dbsec.evidence import Control, Observation, Outcome
from dbsec.pg import Conninfo, connect
from dbsec.pg.instance import Instance

PITR = Control(
    "BAK-PITR",
    "What a statement without WHERE has deleted is there again, to the row, on a clone",
    "backups that were never restored are found out on the day on which they are needed",
    ("NIST SP 800-53 CP-10", "NIST SP 800-53 CP-4", "NIST SP 800-53 CP-9(1)"),
)
OBJECTIVES = Control(
    "BAK-OBJECTIVES",
    "RPO and RTO are measured, and within their objectives",
    "objectives that nobody has measured are wishes",
    ("NIST SP 800-34 3.2.1", "NIST SP 800-53 CP-10"),
)
_TABLE: LiteralString = """
CREATE TABLE ledger AS
SELECT n AS id, md5(n::text) AS entry, (n * 37 % 1000) AS amount_cents FROM generate_series(1, 20000) n
"""
_CONTENT: LiteralString = "SELECT count(*), sum(hashtextextended(t::text, 0))::text FROM ledger t"


@dataclass(slots=True)
class Accident:
    """One accident and its restore. ``instance`` makes the server of a restored folder; ``drill`` its database."""

    stage: Stage
    backups: Backups
    instance: Instance
    database: str

    def seen(self) -> list[Seen]:
        """Delete, restore, compare, let the service run on the clone; returns what was seen. Errors: ``LabError``."""
        before, moment, archived_s = self._delete()
        self.stage.progress.step(f"everything was deleted at {moment:%H:%M:%S}: restoring to just before it")
        began = SYSTEM.monotonic()
        folder = self.instance.data
        try:
            told = self.backups.run("restore", *self._options(moment))["result"]
            return self._judge(before, moment, archived_s, began, told)
        finally:
            self.instance.stop()
            shutil.rmtree(folder, ignore_errors=True)

    def _delete(self) -> tuple[tuple[int, str], datetime, float]:
        """Make the table, note its content and the moment, delete all of it, and wait until the archive has that."""
        with connect(self.stage.login("admin").but(dbname=self.database)) as session:
            session.execute(_TABLE)
            before = _content(session.execute(_CONTENT).fetchone())
            row = session.execute("SELECT clock_timestamp()").fetchone()
            moment: datetime = row[0] if row else SYSTEM.now()
            session.execute("DELETE FROM ledger")
            row = session.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").fetchone()
            session.execute("SELECT pg_switch_wal()")
            began = SYSTEM.monotonic()
            segment = str(row[0]) if row else ""
            retry.wait_until(
                lambda: (
                    session.execute("SELECT last_archived_wal >= %s FROM pg_stat_archiver", (segment,)).fetchone()
                    == (True,)
                ),
                within_s=60,
                what="the WAL of the accident to be archived",
            )
        return before, moment.astimezone(UTC), SYSTEM.monotonic() - began

    def _options(self, moment: datetime) -> list[str | Path]:
        options: list[str | Path] = ["--to", self.instance.data, "--time", moment.isoformat()]
        options += ["--port", str(self.instance.port), "--bindir", self.instance.binaries.folder]
        options += ["--socket", self.backups.socket]
        if not self.stage.lab.site.account.is_current:
            options += ["--owner", self.stage.lab.site.account.name]
        return options

    def _judge(
        self, before: tuple[int, str], moment: datetime, archived_s: float, began: float, told: dict[str, object]
    ) -> list[Seen]:
        clone = self.stage.login("admin").but(port=self.instance.port)
        self.instance.start(timeout_s=90)
        if not opens(self.instance, clone):
            raise LabError("the clone did not open", hint=f"see {self.instance.log}")
        with connect(clone.but(dbname=self.database)) as session:
            after = _content(session.execute(_CONTENT).fetchone())
            session.execute("CREATE TABLE accepted AS SELECT 1 AS write")
        rto_s = SYSTEM.monotonic() - began
        smoke = self._smoke(clone)
        facts = {
            "restored_to": moment.isoformat(),
            "rows_deleted": before[0],
            "rows_restored": after[0],
            "smoke": smoke,
        }
        same = before == after
        summary = f"{after[0]:,} of {before[0]:,} rows are back, content {'equal' if same else 'DIFFERENT'}; {smoke}"
        outcome = Outcome.PASS if same else Outcome.FAIL
        return [
            (PITR, "DELETE without WHERE, undone on a clone", Observation(outcome, summary, facts)),
            (OBJECTIVES, "RPO and RTO of this restore", _measured(archived_s, rto_s)),
        ]

    def _smoke(self, clone: Conninfo) -> str:
        """Run the service on the clone as it runs on the primary, log a tenant in, and read one of its users."""
        stage = self.stage
        if stage.dataset is None or stage.service is None:
            return "the service was not tried: none runs here"
        service = stage.service.again(stage.login("service").but(port=clone.port), release="clone")
        try:
            tenant = stage.dataset.tenants[0]
            with httpx.Client(base_url=service.base_url, timeout=10, trust_env=False) as client:
                told = {"tenant": tenant.slug, "api_key": tenant.api_key.reveal()}
                token = client.post("/v1/login", json=told).raise_for_status().json()["token"]
                client.headers["Authorization"] = f"Bearer {token}"
                user = client.get(f"/v1/users/{tenant.user_ids[0]}").raise_for_status().json()
        finally:
            service.stop()
        if not (user.get("phone") and user.get("email")):
            raise LabError("the service on the clone reads no phone, or no e-mail address")
        return "the service runs on the clone: login, one user with phone and e-mail address"


def _measured(rpo_s: float, rto_s: float) -> Observation:
    wanted = Objectives()
    rows = [
        ["RPO", f"{wanted.rpo_s:g} s", f"{rpo_s:.2f} s", "from the commit until the store had its WAL"],
        ["RTO", f"{wanted.rto_s:g} s", f"{rto_s:.2f} s", "from the restore's start to the first accepted write"],
    ]
    table = {"type": "table", "title": "Objectives", "columns": ["", "target", "measured", "what"], "rows": rows}
    held = rpo_s <= wanted.rpo_s and rto_s <= wanted.rto_s
    facts = {"rpo_s": round(rpo_s, 3), "rto_s": round(rto_s, 3), "objectives": wanted.model_dump()}
    return Observation(Outcome.PASS if held else Outcome.FAIL, f"RPO {rpo_s:.2f} s, RTO {rto_s:.2f} s", facts, [table])


def _content(row: tuple[int, str] | None) -> tuple[int, str]:
    if row is None:
        raise LabError("the table cannot be counted")
    return int(row[0]), str(row[1])
