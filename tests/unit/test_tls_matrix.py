"""How a case is judged, on a ground that stands for any server, and how its pictures are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dbsec.cli.tls import _pictures
from dbsec.evidence import Outcome
from dbsec.tls.drill import PLAINTEXT
from dbsec.tls.matrix.case import Attempt, Case, Need, Reason, mutate, run
from dbsec.tls.matrix.scenes import Scene, Shot

WANTED, ANOTHER = Reason("alert", "unknown_ca"), Reason("alert", "internal_error")


@dataclass(frozen=True)
class Ground:
    """``logins`` are the answers to the good login, in turn."""

    refused: bool = True
    reasons: frozenset[Reason] = frozenset({WANTED})
    logins: tuple[str | None, ...] = (None, None)
    offers: frozenset[Need] = frozenset({Need.LOG})


@contextmanager
def opened(ground: Ground) -> Iterator[Ground]:
    yield replace(ground, refused=False)


@contextmanager
def unchanged(ground: Ground) -> Iterator[Ground]:
    yield ground


def case_on(ground: Ground) -> Case[Ground]:
    asked = iter(ground.logins * 2)
    return Case(
        "one",
        PLAINTEXT,
        "an attack",
        lambda seen: Attempt(seen.refused, seen.reasons),
        lambda _: next(asked),
        lambda _: (WANTED,),
        frozenset({Need.LOG}),
        opened,
    )


@pytest.mark.parametrize(
    ("ground", "outcome"),
    [
        pytest.param(Ground(), Outcome.PASS, id="refused"),
        pytest.param(Ground(reasons=frozenset({WANTED, ANOTHER})), Outcome.PASS, id="more-reasons"),
        pytest.param(Ground(refused=False), Outcome.FAIL, id="let-in"),
        pytest.param(Ground(reasons=frozenset({ANOTHER})), Outcome.ERROR, id="another-reason"),
        pytest.param(Ground(reasons=frozenset()), Outcome.ERROR, id="no-reason"),
        pytest.param(Ground(logins=("down", None)), Outcome.ERROR, id="down-before"),
        pytest.param(Ground(logins=(None, "down")), Outcome.ERROR, id="down-after"),
        pytest.param(Ground(refused=False, logins=(None, "down")), Outcome.FAIL, id="let-in-and-down"),
        pytest.param(Ground(offers=frozenset()), Outcome.SKIP, id="nothing-to-hand"),
    ],
)
def test_a_refusal_counts_for_its_own_reason_between_two_good_logins(ground: Ground, outcome: Outcome):
    assert run(case_on(ground), ground).outcome is outcome


def test_a_mutation_passes_only_where_the_case_goes_red():
    ground = Ground()
    assert mutate(case_on(ground), ground).outcome is Outcome.PASS
    stays_green = mutate(replace(case_on(ground), weaken=unchanged), ground)
    assert (stays_green.outcome, stays_green.facts["without_control"]) == (Outcome.FAIL, "pass")
    down = Ground(logins=("down", "down"))
    assert mutate(case_on(down), down).outcome is Outcome.FAIL
    out_of_hand = replace(case_on(ground), weaken_needs=frozenset({Need.SERVER}))
    assert mutate(out_of_hand, ground).outcome is Outcome.SKIP


def test_a_picture_is_the_same_twice_and_fetches_nothing(tmp_path: Path):
    shot = Shot("why <b>", "host=db.lab sslmode=require", ("refused & gone",), False, False, "it has: made-up")
    scene = Scene("one_thing", "a title", (shot,))
    drawn = [_pictures.save(tmp_path, scene.name, scene.title, _pictures.transcript(scene)).read_text() for _ in "ab"]
    assert drawn[0] == drawn[1]
    assert "@font-face" not in drawn[0]
    assert "url(http" not in drawn[0]
    assert "made-up" in drawn[0]
    assert "<b>" not in drawn[0]
