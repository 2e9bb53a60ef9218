"""The second change, the short way: e-mail addresses become deterministic ciphertexts, by a team's own commands."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

from dbsec import retry
from dbsec.demo import plaintext
from dbsec.demo.by_command import Command, Refused
from dbsec.demo.chapter import Seen
from dbsec.demo.release_exhibits import p99_ms
from dbsec.demo.release_traffic import ReleaseTraffic
from dbsec.demo.stage import Stage
from dbsec.demo.tenant_keys import TenantKeys
from dbsec.evidence import Control, Observation, Outcome
from dbsec.lab.service import Service

_RELEASE = ("--release", "teal", "--config", "dbsec.toml")
_BACKFILL = "*_backfill_users_email_enc.toml"
_ENCRYPTED: LiteralString = """
SELECT count(*), count(email_enc), count(*) FILTER (WHERE substr(email_enc, 1, 2) = '\\xd512') FROM app.users
"""
CHANGE = Control(
    "ENC-COLUMN",
    "A column is encrypted so that equal values are still found, and no request fails",
    "whoever must look people up by e-mail keeps the addresses in clear",
    ("NIST SP 800-53 SC-28(1)", "OWASP A02:2021"),
)


@dataclass
class EmailChange:
    """From release green, which knows e-mail addresses in clear, to teal."""

    stage: Stage
    command: Command
    folder: Path
    keys: TenantKeys
    traffic: ReleaseTraffic

    def run(self) -> Iterator[Seen]:
        """Expand, move the traffic, backfill, switch, contract, write the table anew."""
        self._bring_files()
        self.traffic.mark("e-mail: expand")
        self._up("--phase", "expand")
        teal = self._open()
        self.traffic.mark("e-mail: all traffic to teal")
        self.traffic.route(100)
        self.traffic.serve()
        self._close_green(teal)
        self.traffic.mark("e-mail: backfill")
        self._up("--phase", "backfill")
        teal.switch(dual_write=True, read_switch=True)
        self.traffic.serve()
        teal.switch(read_switch=True)
        self.traffic.mark("e-mail: contract")
        self._contract()
        self.traffic.mark("e-mail: after")
        self.command.run("migrate rewrite", "app.users", "--apply", "--keep-days", str(plaintext.KEEP_DAYS))
        self.traffic.serve()
        yield CHANGE, "requests from expand to contract", self._judged()

    def _bring_files(self) -> None:
        """Copy the change behind what was deployed meanwhile: its numbers are the next free ones."""
        taken = max(int(path.name[:3]) for path in self.folder.glob("[0-9]*"))
        files = sorted((self.stage.deployment / "db/encrypt_email").iterdir())
        first = int(files[0].name[:3])
        for file in files:
            number = taken + 1 + int(file.name[:3]) - first
            shutil.copyfile(file, self.folder / f"{number:03}{file.name[3:]}")

    def _open(self) -> Service:
        green = self.stage.service
        assert green is not None
        teal = Service.start(
            green.site,
            self.stage.login("service"),
            release="teal",
            beside=green,
            credentials=self.keys.credentials,
            settings={**self.keys.settings, "APP_ENCRYPTED": "phone", "APP_CHANGING": "email"},
        )
        self.traffic.green = teal.base_url
        teal.switch(dual_write=True)
        return teal

    def _close_green(self, teal: Service) -> None:
        green = self.stage.service
        assert green is not None
        green.stop()
        self.stage.service = teal

    def _contract(self) -> None:
        (job,) = self.folder.glob(_BACKFILL)
        self.command.run("backfill verify", job)

        def contracted() -> bool:
            try:
                self._up()
            except Refused as exc:
                if not any(wait in exc.message for wait in ("old-release-seen", "not-observed")):
                    raise
                return False
            return True

        retry.wait_until(contracted, within_s=60, every_s=0.5, what="the contract, once nobody of green was seen")

    def _judged(self) -> Observation:
        steps = self.traffic.steps()
        failed = [one for one in steps.samples if one.failed]
        with self.stage.admin() as admin:
            rows, encrypted, ours = admin.execute(_ENCRYPTED).fetchone() or (0, 0, 0)
        facts = {"requests": len(steps.samples), "failed": len(failed), "rows": rows, "encrypted": encrypted}
        p99 = p99_ms(steps.samples)
        summary = f"{encrypted:,} addresses encrypted; {facts['requests']:,} requests, "
        summary += f"{len(failed)} failed, p99 {p99:.0f} ms"
        fine = bool(steps.samples) and not failed and rows == encrypted == ours
        return Observation(Outcome.PASS if fine else Outcome.FAIL, summary, {**facts, "p99_ms": p99}, steps.exhibits())

    def _up(self, *options: str) -> None:
        self.command.run("migrate up", self.folder, *options, *_RELEASE)
