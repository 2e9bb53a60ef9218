"""Drills on a real repository: what is whole passes and is proven, what differs in one value fails and says so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.restore_bed import Site, site

from dbsec import files
from dbsec.backup import Repository
from dbsec.backup.base.awaiting import await_wal
from dbsec.backup.base.options import TakeOptions
from dbsec.backup.base.taking import take
from dbsec.backup.catalog import Backup, data_name
from dbsec.backup.drill import accident, objectives, proof
from dbsec.backup.drill.archive import Choice
from dbsec.backup.drill.clone import Place, prove
from dbsec.backup.drill.homes import clone_home
from dbsec.backup.drill.objectives import Arrival
from dbsec.backup.drill.own import OwnArchive, OwnSource
from dbsec.backup.drill.rehearsing import Drilled, rehearse
from dbsec.backup.drill.rehearsing import Site as Rehearsal
from dbsec.backup.drill.scenarios import Scenario
from dbsec.backup.drill.smoke import Smoke
from dbsec.backup.drill.witness import Patience, take_witness
from dbsec.backup.rekey import Targets, rekey
from dbsec.backup.restoring import Kind, Target
from dbsec.backup.wal.names import Segment, object_name
from dbsec.clock import SYSTEM
from dbsec.config import Objectives
from dbsec.evidence import Outcome
from dbsec.kms import open_admin, open_kms
from dbsec.lab import ports
from dbsec.pg import connect
from dbsec.pg.instance import Instance
from dbsec.pg.lsn import Lsn
from dbsec.process import clean_environment
from dbsec.progress import Silent
from dbsec.secret import Secret
from dbsec.testing.clusters import Cluster

DBSEC = Path(sys.executable).parent / "dbsec"
SETTINGS = {"shared_buffers": "16MB", "fsync": "off"}


@dataclass(frozen=True)
class Bank:
    """A server with backups of each kind: ``old`` was sealed before the KEK had its second version."""

    site: Site
    old: Backup
    current: Backup
    incremental: Backup
    standby: Backup

    def rehearsal(self, **told: Any) -> Rehearsal:
        place = Place(self.site.folder, self.site.cluster.account, lambda: ports.free(1)[0], settings=SETTINGS)
        binaries = self.site.cluster.instance.binaries
        archive = OwnArchive(self.site.bed.again, lambda version: binaries)
        own = {"archive": archive, "server": self.site.cluster.admin, "place": place, "objectives": Objectives()}
        return Rehearsal(**{**own, **told})

    def drill(self, scenario: Scenario = Scenario.CURRENT_KEY, **told: Any) -> Drilled:
        (done,) = rehearse(self.rehearsal(**told), [scenario])
        return done

    def newest_note(self) -> dict[str, Any]:
        repository = self.site.bed.again()
        return proof.read_proof(repository, list(repository.list(proof.DRILLS))[-1].name)

    @contextmanager
    def flipped(self, name: str) -> Iterator[None]:
        """Flip a bit in the body of an object, as a disk does."""
        path = self.site.bed.store_folder / name
        raw = path.read_bytes()
        path.write_bytes(raw[:-40] + bytes([raw[-40] ^ 1]) + raw[-39:])
        try:
            yield
        finally:
            path.write_bytes(raw)


@pytest.fixture(scope="module")
def bank(cluster_factory: Callable[..., Cluster], server_root: Path) -> Iterator[Bank]:
    told = {"archive_timeout": "1s", "autovacuum": "off", "summarize_wal": "on"}
    with site(cluster_factory, server_root, "drill", **told) as made:
        made.sql(
            "CREATE TABLE account (id int PRIMARY KEY, cents int8)",
            "INSERT INTO account SELECT i, i * 7 FROM generate_series(1, 3000) AS i",
            "CREATE TABLE note AS SELECT i AS id, md5(i::text) AS said FROM generate_series(1, 100) AS i",
        )
        old = made.take(compress="client")
        kms = made.bed.settings.kms
        open_admin(kms, environ=made.bed.environ).rotate()
        rekey(made.bed.again(), Targets(open_kms(kms, environ=made.bed.environ)), progress=Silent())
        standby = _from_standby(made)
        made.sql("UPDATE account SET cents = cents + 1 WHERE id % 3 = 0")
        current = made.take(compress="client")
        made.sql("DELETE FROM account WHERE id % 100 = 0")
        newest = made.take(compress="client", incremental=True)
        await_wal(made.bed.again(), newest, within_s=60, progress=Silent())  # a drill takes a backup that has its WAL
        yield Bank(made, old, current, newest, standby)


def _from_standby(made: Site) -> Backup:
    instance = replace(
        made.cluster.instance, data=made.folder / "standby", port=ports.free(1)[0], log=made.folder / "standby.log"
    )
    instance.clone(made.cluster.admin, slot="drill")
    instance.configure({"archive_mode": "off"})
    try:
        instance.start()
        server = made.cluster.admin.but(port=instance.port)
        return take(made.bed.again(), server, TakeOptions(compress="client"), progress=Silent())
    finally:
        instance.stop()
        made.sql("SELECT pg_drop_replication_slot('drill')")


def test_what_is_whole_is_proven_in_every_scenario(bank: Bank) -> None:
    began = SYSTEM.now()
    seen = bank.site.folder / "smoked"
    smoke = Smoke(f'printf \'%s\\n\' "$DBSEC_CLONE_DSN" >> {seen}; test -S "$PGHOST/.s.PGSQL.$PGPORT"', Path("/"))
    rehearsal = bank.rehearsal()
    rehearsal = replace(rehearsal, place=replace(rehearsal.place, smoke=smoke))
    done = {one.scenario: one for one in rehearse(rehearsal, list(Scenario))}
    assert {one.seen.summary for one in done.values() if one.outcome is not Outcome.PASS} == set()
    facts = {scenario: one.seen.facts for scenario, one in done.items()}
    assert facts[Scenario.OLD_KEY]["sealed_under"] != facts[Scenario.STANDBY]["sealed_under"]
    assert {scenario: told["backup"] for scenario, told in facts.items()} == {
        Scenario.CURRENT_KEY: bank.incremental.id,
        Scenario.OLD_KEY: bank.old.id,
        Scenario.INCREMENTAL: bank.incremental.id,
        Scenario.STANDBY: bank.standby.id,
        Scenario.BEFORE_DELETE: bank.incremental.id,
    }
    for scenario, told in facts.items():
        rows = 2970 + 100 + (accident.ROWS if scenario is Scenario.BEFORE_DELETE else 0)
        assert (told["rows"], told["rows_expected"], told["differences"]) == (rows, rows, [])
        assert 0 < told["rpo_s"] < 30
        assert 0 < told["restore_s"] < told["rto_s"] < 60
    assert facts[Scenario.BEFORE_DELETE]["deleted"] == accident.ROWS
    assert len(seen.read_text().splitlines()) == len(done)
    assert "password" not in seen.read_text()
    proven = proof.last_proven(bank.site.bed.again())
    assert proven is not None
    assert began < proven < SYSTEM.now()
    # nothing is left, neither of the clones nor of the accident
    assert not list(bank.site.folder.glob("drill-*"))
    assert bank.site.sql("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'dbsec%'") == []


def test_one_value_one_row_and_one_index_are_enough(bank: Bank) -> None:
    """The clone has what was done after the witness, and an index whose order is another."""
    rehearsal = bank.rehearsal()
    witness = take_witness(rehearsal.server)
    bank.site.sql(
        "UPDATE account SET cents = cents + 1 WHERE id = 1717",
        "DELETE FROM note WHERE id = 50",
        "CREATE TABLE broken AS SELECT i FROM generate_series(1, 500) AS i",
        "CREATE FUNCTION turned(int) RETURNS int LANGUAGE sql IMMUTABLE RETURN $1",
        "CREATE INDEX broken_i ON broken (turned(i))",
        "CREATE OR REPLACE FUNCTION turned(int) RETURNS int LANGUAGE sql IMMUTABLE RETURN -$1",
        "SELECT pg_create_restore_point('later')",
    )
    bank.site.archived()
    binaries = bank.site.cluster.instance.binaries
    source = OwnSource(bank.site.bed.again(), binaries, Target(Kind.NAME, "later"), bank.current.id)
    place = replace(rehearsal.place, smoke=Smoke("echo no cart >&2; exit 7", Path("/")))
    cloned = prove(source, replace(witness, name="later"), place, progress=Silent())
    assert cloned.comparison.differences == (
        "'public.account' has its 2970 rows, and other values in them",
        "'public.note' has 99 rows, not 100",
    )
    assert [line for line in cloned.corruption if line.startswith("broken_i:")]
    assert (cloned.unknown, cloned.smoke) == ((), "it ended with 7: no cart")
    bank.site.sql("DROP TABLE broken; DROP FUNCTION turned; INSERT INTO note VALUES (50, md5('50'))")
    _each_is_judged(cloned)


def _each_is_judged(cloned: Any) -> None:
    """Take the faults out one by one: each of them alone is FAIL, and without them it is PASS."""
    whole = replace(cloned, comparison=replace(cloned.comparison, differences=()), corruption=(), smoke="")
    prompt, late, forced = Arrival(0.2, forced=False), Arrival(61, forced=False), Arrival(60, forced=True)
    allowed = Objectives(rpo_s=60, rto_s=600)
    faults = {
        "account": (replace(whole, comparison=cloned.comparison), prompt, allowed),
        "amcheck": (replace(whole, corruption=cloned.corruption), prompt, allowed),
        "smoke test": (replace(whole, smoke=cloned.smoke), prompt, allowed),
        "RPO 61.0 s, beyond 60 s": (whole, late, allowed),
        "RPO at least 60.0 s": (whole, forced, allowed),
        "beyond 0.001 s": (whole, prompt, Objectives(rto_s=0.001)),
    }
    for said, told in faults.items():
        verdict = objectives.judge(*told)
        assert (verdict.outcome, len(verdict.reasons) > 0) == (Outcome.FAIL, True), said
        assert said in verdict.reasons[0]
    assert objectives.judge(whole, prompt, allowed).outcome is Outcome.PASS
    assert objectives.judge(replace(whole, unknown=("no amcheck",)), prompt, allowed).outcome is Outcome.ERROR


class Meddling:
    """An archive in which something happens between the witness and the restore."""

    def __init__(self, archive: OwnArchive, meddle: Callable[[], Any]) -> None:
        self._archive = archive
        self._meddle = meddle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._archive, name)

    def source(self, choice: Choice, target: Target) -> OwnSource:
        self._meddle()
        return self._archive.source(choice, target)


def test_a_tampered_object_fails_with_its_name_and_leaves_no_proof(bank: Bank) -> None:
    before = proof.last_proven(bank.site.bed.again())
    name = data_name(bank.incremental.id, 0)
    with bank.flipped(name):
        done = bank.drill()
    assert (done.outcome, done.rto_s) == (Outcome.FAIL, None)
    assert f"'{name}' is not what was sealed" in done.seen.summary
    note = bank.newest_note()
    assert (note["outcome"], note["why"], note["scenario"]) == ("fail", done.seen.summary, "current-key")
    assert done.proof.startswith(proof.DRILLS)
    assert proof.last_proven(bank.site.bed.again()) == before


def test_tampered_wal_fails_and_the_log_says_why(bank: Bank) -> None:
    rehearsal = bank.rehearsal()
    damaged: list[Any] = []
    end = bank.site.archived()  # what comes before this is replayed, and lies behind the backup
    segment = Segment.at(1, Lsn(end.value - 1), 16 << 20)

    def meddle() -> None:
        made = bank.flipped(object_name(segment.name))
        made.__enter__()
        damaged.append(made)

    try:
        done = bank.drill(archive=Meddling(rehearsal.archive, meddle))
    finally:
        for made in damaged:
            made.__exit__(None, None, None)
    assert done.outcome is Outcome.FAIL
    assert "is not what was sealed" in done.seen.summary


def test_a_server_that_is_away_or_held_tells_nothing(bank: Bank) -> None:
    before = proof.last_proven(bank.site.bed.again())
    away = bank.drill(server=bank.site.cluster.admin.but(port=ports.free(1)[0]))
    assert (away.outcome, bank.newest_note()["outcome"]) == (Outcome.ERROR, "error")
    assert "cannot log in" in away.seen.summary
    hasty = Patience(timedelta(seconds=0.1), timedelta(seconds=0.2), timedelta(seconds=0.05))
    with connect(bank.site.cluster.admin, autocommit=False) as writer:
        writer.execute("UPDATE account SET cents = 0 WHERE id = 1")
        held = bank.drill(patience=hasty)
    assert held.outcome is Outcome.ERROR
    assert "locking 2 tables" in held.seen.summary
    assert proof.last_proven(bank.site.bed.again()) == before


def test_what_a_killed_drill_has_left_is_swept_by_the_next(bank: Bank) -> None:
    """A server that runs on in a folder which nobody holds is stopped; a drill that runs keeps its own."""
    cluster = bank.site.cluster
    binaries = cluster.instance.binaries
    left = bank.site.folder / "drill-left"
    files.make_folder(left, mode=0o700, owner=bank.site.owner)
    server = Instance(binaries, left / "data", ports.free(1)[0], left / "server.log", cluster.account)
    server.init(superuser="postgres", password=Secret("of-nobody"), durable=False)
    server.configure({"port": str(server.port), "unix_socket_directories": "", "shared_buffers": "16MB"})
    pid = server.start()
    with clone_home(bank.site.folder, cluster.account, binaries) as first:
        assert (pid.alive, left.exists()) == (False, False)
        with clone_home(bank.site.folder, cluster.account, binaries) as second:
            assert first.exists()
            assert first != second
    assert not list(bank.site.folder.glob("drill-*"))


def test_a_damaged_proof_proves_nothing(bank: Bank) -> None:
    repository: Repository = bank.site.bed.again()
    passed = proof.put_proof(repository, SYSTEM.now(), {"outcome": "pass", "at": "2099-01-01T00:00:00.000000Z"})
    last = proof.last_proven(repository)
    assert last is not None
    assert last.year == 2099
    with bank.flipped(passed):
        older = proof.last_proven(repository)
        assert older is None or older.year < 2099
    (bank.site.bed.store_folder / passed).unlink()


def test_the_command_tells_a_table_json_and_evidence(bank: Bank, tmp_path: Path) -> None:
    cluster, bed = bank.site.cluster, bank.site.bed
    dsn = tmp_path / "dsn"
    dsn.write_text(cluster.admin.text())
    dsn.chmod(0o600)
    told = f'store = "{bed.settings.store}"\nkms = "{bed.settings.kms}"\ndsn = "file:{dsn}"\n'
    (tmp_path / "dbsec.toml").write_text(f"[backup]\n{told}\n[objectives]\nrto_s = 0.01\n")
    argv = ["--scratch", bank.site.folder, "--bindir", cluster.instance.binaries.folder, "--set", "fsync=off"]
    if not cluster.account.is_current:
        argv += ["--owner", cluster.account.name]
    line = tmp_path / "drill.jsonl"
    smoke = 'test "$(ls /proc/*/cmdline | wc -l)" -gt 0 && test -z "$KEK"'

    def call(*more: Any, code: int) -> subprocess.CompletedProcess[str]:
        env = clean_environment(tmp_path, {**bed.environ, **cluster.instance.binaries.env})
        done = subprocess.run(
            [DBSEC, *more], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == code, done.stderr
        assert cluster.admin.password is not None
        for secret in (cluster.admin.password.reveal(), bed.environ["KEK"]):
            assert secret not in done.stdout + done.stderr
        return done

    drill = ["backup", "drill", *argv, "--scenario", "current-key", "--tables", "public.account"]
    done = call(*drill, "--smoke", smoke, "--evidence", line, "--format", "json", code=1)
    (shown,) = json.loads(done.stdout)["result"]["drills"]
    assert (shown["outcome"], shown["control"], shown["facts"]["tables"]) == ("fail", "BAK-RESTORE", 1)
    assert shown["facts"]["differences"] == []
    assert "beyond 0.01 s" in shown["summary"]
    call("report", "verify", line, code=0)
    observed = [one for one in map(json.loads, line.read_text().splitlines()) if one["kind"] == "observation"]
    assert [(one["outcome"], one["target"]["database"]) for one in observed] == [("fail", "postgres")]
    assert "evidence is not overwritten" in call(*drill, "--evidence", line, code=2).stderr
    table = call(*drill[:-4], "--scenario", "nonesuch", code=2)
    assert "there is no scenario 'nonesuch'" in table.stderr
