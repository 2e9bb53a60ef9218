"""Blue to green under load: phones are encrypted on the live table, traffic moves over, back once, and over again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

from dbsec import retry
from dbsec.clock import SYSTEM
from dbsec.demo.by_command import Command, Refused
from dbsec.demo.chapter import Seen
from dbsec.demo.release_exhibits import p99_ms
from dbsec.demo.release_traffic import ReleaseTraffic
from dbsec.demo.stage import Stage
from dbsec.demo.tenant_keys import TenantKeys
from dbsec.evidence import Control, Observation, Outcome
from dbsec.lab.service import Service

QUIET_S = 8.0
_FEW = 100  # more than green writes by itself meanwhile
_BACKFILL = "002_backfill_users_phone_enc"
_CONFIG = ("--config", "dbsec.toml")
_RELEASE = ("--release", "green", *_CONFIG)

CHANGE = Control(
    "MIG-CHANGE",
    "A column is encrypted on the live table, and no request fails",
    "a change of release and schema at once is an outage, or a night's work that nobody can undo",
    ("NIST SP 800-53 CM-3", "NIST SP 800-53 SC-28"),
)
BACK = Control(
    "MIG-ROLLBACK",
    "Until contract, each step has a way back that loses nothing",
    "a release that cannot go back is debugged in production",
    ("NIST SP 800-53 CM-3(2)",),
)
RESUME = Control(
    "MIG-RESUME",
    "A run that was killed goes on at the statement and the batch where it stopped",
    "half a migration is neither the old schema nor the new one",
    ("NIST SP 800-53 CP-10",),
)
CONTRACT = Control(
    "MIG-CONTRACT",
    "Nothing is taken away while the old release is there, or before every row is proven",
    "the column goes, and the processes that still read it fail in the same second",
    ("NIST SP 800-53 CM-4",),
)
_ROWS: LiteralString = "SELECT count(*), count(phone_enc) FROM app.users"
_COLUMNS: LiteralString = """
SELECT count(*) FROM pg_catalog.pg_attribute
 WHERE attrelid = 'app.users'::regclass AND attname = ANY ('{phone_enc,phone_bidx}') AND NOT attisdropped
"""


@dataclass
class ReleaseChange:
    """One change of release, under the load of ``traffic``."""

    stage: Stage
    command: Command
    folder: Path
    keys: TenantKeys
    traffic: ReleaseTraffic

    def run(self) -> Iterator[Seen]:
        """Expand, go back from the middle, expand again, move the traffic, backfill, contract."""
        self.traffic.mark("expand")
        yield RESUME, "kill -9 in the middle of expand, then run it again", self._killed_expand()
        self.traffic.mark("green at 50 %")
        self._open_green()
        yield CHANGE, "both releases serve, half of the requests each", self._split(50)
        yield BACK, "go back from the middle: all traffic to blue, and the columns away", self._back()
        self.traffic.mark("expand again")
        self._up("--phase", "expand")
        self._open_green()
        yield from self._over()
        yield RESUME, "kill -9 in the middle of the backfill, then run it again", self._backfill()
        yield CONTRACT, "contract while blue is connected", self._too_early()
        self._close_blue()
        self.traffic.mark("read the new columns")
        self._switch(dual_write=True, read_switch=True)
        self.traffic.serve()
        self.traffic.mark("read the old ones again")
        self._switch(dual_write=True)
        self.traffic.serve()
        self.traffic.mark("write the new ones alone")
        self._switch(dual_write=True, read_switch=True)
        self._switch(read_switch=True)
        yield CONTRACT, "contract once blue was quiet", self._contract()
        yield CHANGE, "requests from expand to contract", self._judged()

    def _killed_expand(self) -> Observation:
        self.command.killed(
            "migrate up", self.folder, "--phase", "expand", *_RELEASE, when=lambda log: "DROP NOT NULL" in log
        )
        half = self._states()
        self._up("--phase", "expand")
        whole = self._one(_COLUMNS) == 2 and self._states() == {"001": "applied"}
        facts = {"after the kill": half, "after the next run": self._states()}
        summary = "killed inside 001, which the next 'up' ended from the statement where it stopped"
        return Observation(Outcome.PASS if whole else Outcome.FAIL, summary, facts)

    def _split(self, percent: int) -> Observation:
        self.traffic.route(percent)
        samples = self.traffic.serve()
        to_green = self.traffic.to_green(samples)
        failed = sum(sample.failed for sample in samples)
        facts = {"requests": len(samples), "to_green": to_green, "failed": failed, "asked_percent": percent}
        fine = not failed and (to_green > 0) is (percent > 0) and (to_green < len(samples)) is (percent < 100)
        summary = f"{len(samples)} requests, {to_green} of them to green, {failed} failed"
        return Observation(Outcome.PASS if fine else Outcome.FAIL, summary, facts)

    def _back(self) -> Observation:
        self.traffic.mark("rollback")
        self._killed_backfill("--to", "2")
        encrypted = self._row(_ROWS)[1]
        self.traffic.route(0)
        self._green.stop()
        self.command.run("backfill abort", _BACKFILL)
        self.command.run("migrate down", self.folder, "--to", "0", *_CONFIG)
        samples = self.traffic.serve()
        failed = sum(sample.failed for sample in samples)
        left = self._one(_COLUMNS)
        facts = {"rows_encrypted_before": encrypted, "columns_left": left, "failed": failed}
        summary = f"{encrypted:,} rows were encrypted; then no column was left, and blue served on: {failed} failed"
        return Observation(Outcome.PASS if not failed and not left and encrypted else Outcome.FAIL, summary, facts)

    def _over(self) -> Iterator[Seen]:
        for percent, label in ((50, "50 %"), (100, "100 %"), (50, "back to 50 %"), (100, "100 % again")):
            self.traffic.mark(f"green at {label}")
            yield CHANGE, f"green at {label}", self._split(percent)

    def _too_early(self) -> Observation:
        try:
            self._up()
        except Refused as exc:
            right = exc.code == 1 and self._states().get("003") is None and "old-release" in exc.message
            said = [_after(line) for line in exc.message.splitlines() if line.startswith("dbsec: ")]
            facts = {"exit_code": exc.code, "said": said}
            shown = next((line for line in said if line.startswith("old-release")), _line(exc))
            return Observation(Outcome.PASS if right else Outcome.ERROR, f"refused: {shown}", facts)
        return Observation(Outcome.FAIL, "the old column was dropped while blue read it")

    def _close_blue(self) -> None:
        blue = self.stage.service
        assert blue is not None
        blue.stop()
        self.stage.service = self._green

    def _backfill(self) -> Observation:
        self.traffic.mark("backfill")
        self._killed_backfill("--phase", "backfill")
        half = self._row(_ROWS)[1]
        self._up("--phase", "backfill")
        rows, encrypted = self._row(_ROWS)
        facts = {"encrypted_when_killed": half, "rows": rows, "encrypted": encrypted}
        summary = f"killed with {half:,} rows encrypted; the next run ended it, and verified {encrypted:,} of {rows:,}"
        return Observation(Outcome.PASS if rows == encrypted else Outcome.FAIL, summary, facts)

    def _contract(self) -> Observation:
        self.traffic.mark("contract")
        began = SYSTEM.monotonic()
        refusals: list[str] = []

        job = self.folder / f"{_BACKFILL}.toml"
        self.command.run("backfill verify", job)  # blue might have written after the first one

        def contracted() -> bool:
            try:
                self._up()
            except Refused as exc:
                if "old-release-seen" not in exc.message:
                    raise
                refusals.append(_line(exc))
                return False
            return True

        waited = "the contract, once nobody of blue was seen for long enough"
        retry.wait_until(contracted, within_s=60, every_s=0.5, what=waited)
        facts = {"refused_before": refusals[-5:], "quiet_s": QUIET_S, "waited_s": round(SYSTEM.monotonic() - began, 1)}
        gone = not self._one(
            "SELECT count(*) FROM pg_catalog.pg_attribute WHERE attrelid = 'app.users'::regclass"
            " AND attname = 'phone' AND NOT attisdropped"
        )
        summary = f"refused {len(refusals)} times until blue was quiet for {QUIET_S:g} s; then the column went"
        return Observation(Outcome.PASS if gone else Outcome.FAIL, summary, facts)

    def _judged(self) -> Observation:
        """Put the latency of the steps side by side; the objectives are judged for the whole chapter."""
        self.traffic.mark("after")
        self.traffic.serve()
        steps = self.traffic.steps()
        failed = [one for one in steps.samples if one.failed]
        p99 = p99_ms(steps.samples)
        facts = {"requests": len(steps.samples), "failed": len(failed), "errors": sorted({one.error for one in failed})}
        summary = f"{len(steps.samples):,} requests from expand to contract, {len(failed)} failed, p99 {p99:.0f} ms"
        outcome = Outcome.PASS if steps.samples and not failed else Outcome.FAIL
        return Observation(outcome, summary, {**facts, "p99_ms": p99}, steps.exhibits())

    # --- what the steps are made of

    def _up(self, *options: str) -> None:
        self.command.run("migrate up", self.folder, *options, *_RELEASE)

    def _killed_backfill(self, *options: str) -> None:
        """Kill it as soon as its first batch is there."""
        before = self._row(_ROWS)[1]
        with self.stage.admin() as admin:

            def begun(_: str) -> bool:
                row = admin.execute(_ROWS).fetchone()
                return bool(row and row[1] > before + _FEW)

            self.command.killed("migrate up", self.folder, *options, *_RELEASE, when=begun)

    def _states(self) -> dict[str, str]:
        with self.stage.admin() as admin:
            rows = admin.execute("SELECT number, state FROM dbsec.migrations ORDER BY number").fetchall()
        return {f"{number:03}": state for number, state in rows}

    def _open_green(self) -> None:
        blue = self.stage.service
        assert blue is not None
        self._green = Service.start(
            blue.site,
            self.stage.login("service"),
            release="green",
            beside=blue,
            credentials=self.keys.credentials,
            settings={**self.keys.settings, "APP_CHANGING": "phone"},
        )
        self.traffic.green = self._green.base_url
        self._switch(dual_write=True)

    def _switch(self, **flags: bool) -> None:
        self._green.switch(**flags)

    def _row(self, query: LiteralString) -> Any:
        with self.stage.admin() as admin:
            return admin.execute(query).fetchone()

    def _one(self, query: LiteralString) -> Any:
        return self._row(query)[0]


def _line(exc: Refused) -> str:
    return _after(exc.message.strip().splitlines()[0])


def _after(line: str) -> str:
    return line.removeprefix("dbsec: ")
