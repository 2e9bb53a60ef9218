"""Debian's pgBackRest under our witness: what it restores whole passes, and what it restores short or altered fails."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import missing

from dbsec.backup.drill.archive import Choice
from dbsec.backup.drill.clone import Place
from dbsec.backup.drill.pgbackrest import PgBackRest, PgBackRestSource
from dbsec.backup.drill.rehearsing import Drilled, Site, rehearse
from dbsec.backup.drill.scenarios import Scenario
from dbsec.backup.restoring import Target
from dbsec.config import Objectives
from dbsec.evidence import Outcome
from dbsec.lab import ports
from dbsec.retry import wait_until
from dbsec.testing.clusters import Clusters
from dbsec.testing.stanza import NAME, Stanza, stanza

pytestmark = pytest.mark.pg(15)


@pytest.fixture(scope="module")
def made(clusters: Clusters, server_root: Path) -> Iterator[Stanza]:
    if shutil.which("pgbackrest") is None:
        missing("pgBackRest is not installed: make setup-extra")
    with stanza(clusters, server_root) as there:
        yield there


def drilled(made: Stanza, scenario: Scenario = Scenario.CURRENT_KEY, **told: Any) -> Drilled:
    place = Place(made.folder, made.cluster.account, lambda: ports.free(1)[0], settings={"fsync": "off"})
    own = {"archive": made.archive, "server": made.cluster.admin, "place": place, "objectives": Objectives()}
    (done,) = rehearse(Site(**{**own, **told}), [scenario])
    return done


def objects(made: Stanza, pattern: str) -> list[Path]:
    return sorted((made.folder / "repo").glob(pattern))


class Meddling:
    """A stanza in which something happens between the witness and the restore."""

    def __init__(self, archive: PgBackRest, meddle: Callable[[], Any]) -> None:
        self._archive = archive
        self._meddle = meddle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._archive, name)

    def source(self, choice: Choice, target: Target) -> PgBackRestSource:
        self._meddle()
        return self._archive.source(choice, target)


@contextmanager
def damaged(path: Path, damage: Callable[[bytes], bytes | None]) -> Iterator[None]:
    """Write other bytes into a file of the repository, or none at all."""
    raw, stat = path.read_bytes(), path.stat()
    new = damage(raw)
    path.unlink() if new is None else path.write_bytes(new)
    try:
        yield
    finally:
        path.write_bytes(raw)
        path.chmod(stat.st_mode)
        os.chown(path, stat.st_uid, stat.st_gid)


def flip(raw: bytes) -> bytes:
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]


def test_what_pgbackrest_restores_whole_is_proven(made: Stanza) -> None:
    done = {one: drilled(made, one) for one in Scenario if one is not Scenario.INCREMENTAL}
    wanted = (Scenario.CURRENT_KEY, Scenario.BEFORE_DELETE)
    assert [done[one].seen.summary for one in wanted if done[one].outcome is not Outcome.PASS] == []
    for one in wanted:
        facts = done[one].seen.facts
        assert (facts["stanza"], facts["type"]) == (NAME, "incr")
        assert facts["rows"] == facts["rows_expected"] == 4000 + (1000 if one is Scenario.BEFORE_DELETE else 0)
        assert 0 < facts["rpo_s"] < 30
        assert facts["rto_s"] < 60
    assert {done[one].outcome for one in (Scenario.OLD_KEY, Scenario.STANDBY)} == {Outcome.SKIP}
    assert not list(made.folder.glob("drill-*"))
    assert drilled(made, objectives=Objectives(rto_s=0.01)).outcome is Outcome.FAIL


@pytest.mark.parametrize("damage", [flip, lambda raw: None], ids=["bit", "gone"])
def test_wal_that_is_damaged_ends_short_and_fails(made: Stanza, damage: Callable[[bytes], bytes | None]) -> None:
    """Without a target PostgreSQL would open here with what came before, and pgBackRest would say nothing."""
    ((segment,),) = made.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")
    made.sql("UPDATE account SET cents = cents + 1", "SELECT pg_switch_wal()")
    wait_until(
        lambda: made.sql("SELECT last_archived_wal FROM pg_stat_archiver")[0][0] >= segment,
        within_s=30,
        what="the archiver",
    )
    damages: list[Any] = []

    def meddle() -> None:
        (path,) = objects(made, f"archive/{NAME}/*/*/{segment}-*")
        damages.append(damaged(path, damage))
        damages[0].__enter__()

    try:
        done = drilled(made, archive=Meddling(made.archive, meddle))
    finally:
        for one in damages:
            one.__exit__(None, None, None)
    assert done.outcome is Outcome.FAIL, done.seen.summary
    assert "before configured recovery target was reached" in done.seen.summary


def test_a_backup_that_is_damaged_fails_with_pgbackrests_reason(made: Stanza) -> None:
    backups = objects(made, f"backup/{NAME}/*F")
    largest = max(backups[0].rglob("base/*/*"), key=lambda path: path.stat().st_size)
    with damaged(largest, flip):
        done = drilled(made)
    assert done.outcome is Outcome.FAIL, done.seen.summary
    assert "pgBackRest does not restore it" in done.seen.summary


def test_what_says_nothing_of_the_backup_is_no_failure_of_it(made: Stanza) -> None:
    unknown = drilled(made, archive=replace(made.archive, stanza="nobody"))
    assert (unknown.outcome, "nobody" in unknown.seen.summary) == (Outcome.ERROR, True)
    absent = drilled(made, archive=replace(made.archive, program=Path("/nonexistent/pgbackrest")))
    assert absent.outcome is Outcome.ERROR
    away = drilled(made, server=made.cluster.admin.but(port=ports.free(1)[0]))
    assert away.outcome is Outcome.ERROR
