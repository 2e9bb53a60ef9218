"""What a rehearsal that did not end says, and which exit code a series has."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from dbsec.backup.drill.clone import NotRestored
from dbsec.backup.drill.rehearsing import Drilled
from dbsec.backup.drill.scenarios import CONTROLS, Scenario
from dbsec.backup.drill.telling import refused
from dbsec.backup.errors import ArchiveHole, KeyUnavailable, Tampered, WrongCluster
from dbsec.cli.backup import _drilled, drilling
from dbsec.cli.commands.backup import COMMAND
from dbsec.errors import ConnectError, DbsecError, GaveUp, ProgramError
from dbsec.evidence import Observation, Outcome


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (Tampered("wal/1", "its tag"), Outcome.FAIL),
        (ArchiveHole("a hole"), Outcome.FAIL),
        (NotRestored("it ended"), Outcome.FAIL),
        (KeyUnavailable("no", refused=True), Outcome.FAIL),
        (KeyUnavailable("away", refused=False), Outcome.ERROR),
        (ConnectError("away"), Outcome.ERROR),
        (GaveUp("the store"), Outcome.ERROR),
        (WrongCluster("another"), Outcome.ERROR),
        (ProgramError("pgbackrest ended", code=50), Outcome.ERROR),
        (OSError(28, "No space left on device"), Outcome.ERROR),
    ],
    ids=["tampered", "hole", "clone", "key", "kms", "server", "store", "cluster", "program", "disk"],
)
def test_only_what_the_repository_holds_is_a_failure(said: DbsecError | OSError, outcome: Outcome) -> None:
    assert refused(said).outcome is outcome


def test_a_secret_in_an_error_is_not_evidence() -> None:
    seen = refused(ConnectError("postgresql://u:topsecret@h/d", hint="password=topsecret"))
    assert "topsecret" not in seen.summary + str(seen.facts)


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [("pass skip", 0), ("pass fail error", 1), ("pass error", 3), ("skip skip", 3), ("", 3)],
    ids=["pass", "fail", "error", "skips", "none"],
)
def test_the_worst_decides_and_nothing_proven_is_not_known(outcomes: str, code: int) -> None:
    seen = [Observation(Outcome(one), "") for one in outcomes.split()]
    assert _drilled.exit_code([Drilled(Scenario.STANDBY, one, "", 0.0) for one in seen]) == code


def test_the_command_knows_every_scenario() -> None:
    assert list(drilling._SCENARIOS) == [str(one) for one in Scenario] == [str(one) for one in CONTROLS]
    assert "there is no scenario 'x'" in str(CliRunner().invoke(COMMAND, ["drill", "--scenario", "x"]).exception)
