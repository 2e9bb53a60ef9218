"""What every chapter of the demo owes: found by its file, in order, with controls that name risk and reference."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dbsec import discovery
from dbsec.demo import Chapter, chapters, sequence
from dbsec.demo.stage import Stage
from dbsec.evidence import Recorder
from dbsec.pg import Conninfo
from dbsec.tls import Authority

CHAPTERS = sequence.found()


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.name)
def test_a_chapter_bears_the_name_of_its_file_and_says_what_it_does(chapter: Chapter):
    assert chapter.name in discovery.names_in(chapters)
    assert re.fullmatch(r"[a-z][a-z0-9_]*", chapter.name)
    assert chapter.title[0].isupper()
    assert not chapter.title.endswith(".")
    assert chapter.summary.endswith(".")


def test_orders_are_unique_and_leave_gaps():
    orders = [c.order for c in CHAPTERS]
    assert orders == sorted(set(orders))
    assert all(order % 10 == 0 for order in orders)


class _Lab:
    """Enough of a lab for drills to be made; none of them is run."""

    folder = Path("lab")

    class primary:  # noqa: N801
        log = Path("server.log")
        binaries = None

    class site:  # noqa: N801
        authority = Authority.create("unused")
        account = None


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.name)
def test_each_drill_is_named_once_and_its_control_tells_risk_and_reference(chapter: Chapter, recorder: Recorder):
    stage = Stage(_Lab, Path(), recorder, None, None, dict.fromkeys(("admin", "service", "migrator"), Conninfo()))
    drills = chapter.drills(stage)
    names = [(d.control.id, d.name) for d in drills]
    assert len(names) == len(set(names))
    for drill in drills:
        control = drill.control
        assert re.fullmatch(r"(TLS|HBA|ROL|RLS|ENC|BAK|SEC|LOG|MIG)-[A-Z0-9-]+", control.id)
        assert control.risk
        assert control.refs
        assert all(re.match(r"OWASP|CIS|NIST|CWE|RFC|CVE", ref) for ref in control.refs)


@pytest.fixture
def recorder() -> None:
    """A recorder is carried by the stage and not used when drills are made."""
    return
